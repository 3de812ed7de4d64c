"""The experiment: who measures what for how long, until the intervals are narrow enough or the budget has ended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gradprobe.comparison import measured_modes
from gradprobe.comparison.settings import ComparisonSettings
from gradprobe.comparison.stats.intervals import Estimate, compute_log_ratios, estimate_ratio
from gradprobe.comparison.workers.worker_handles import Worker, WorkerDied
from gradprobe.errors import GradprobeError

TURN_S: Final = 0.06
"""How long a process measures before the next takes its turn: all of them meet the same weather."""
MIN_TURNS: Final = 3
MIN_ROUNDS: Final = 8
FITTING_BUDGET_SHARE: Final = 0.25
COUNTING_BUDGET_SHARE: Final = 0.25
MIXTURES: Final = 48
MIN_MIXTURES: Final = 16
MIXTURE_S: Final = 0.03
MIXTURE_ROUNDS: Final = 10

ArmTimes = dict[str, list[float]]
ProgressCallback = Callable[[str, float], None]
"""Hears what is being done, and the share of the budget that has gone."""


@dataclass
class MeasuredWorkload:
    """One workload: what preparing it showed, and nanoseconds per call by arm, process and round."""

    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    times: dict[int, ArmTimes] = field(default_factory=dict)
    crash: str = ""
    turns: int = 0
    notes: list[str] = field(default_factory=list)
    mechanisms: dict[str, dict[str, float]] = field(default_factory=dict)
    account: dict[str, dict[str, Any]] = field(default_factory=dict)
    instructions: dict[str, float] = field(default_factory=dict)

    @property
    def arms(self) -> list[str]:
        return list(self.facts.get("arms", ()))

    @property
    def round_s(self) -> float:
        """Seconds of one round."""
        return float((self.facts.get("call_ns") or 0.0) * self.facts.get("calls", 1) * len(self.arms)) / 1e9

    def keep(self, member: int, times: ArmTimes) -> None:
        kept = self.times.setdefault(member, {arm: [] for arm in times})
        for arm, values in times.items():
            kept[arm] += values

    def ratio(self, arm: str, seed: int) -> Estimate:
        """The ratio of an arm to the baseline."""
        both = [times for times in self.times.values() if arm in times and measured_modes.BASELINE in times]
        return estimate_ratio(
            [compute_log_ratios(times[arm], times[measured_modes.BASELINE]) for times in both], seed=seed
        )

    def is_precise(self, settings: ComparisonSettings) -> bool:
        """Whether the intervals are as narrow as asked for. Asked only of widths, which do not favour a verdict."""
        enough = all(len(taken) >= MIN_ROUNDS for times in self.times.values() for taken in times.values())
        if measured_modes.BASELINE not in self.arms:
            return enough  # there is no ratio to wait for
        width = math.log1p(settings.precision)
        return (
            enough
            and self.turns >= MIN_TURNS
            and all(
                self.ratio(arm, settings.seed).half_width <= width
                for arm in self.arms
                if arm != measured_modes.BASELINE
            )
        )


class Experiment:
    """Asks the members of a crew, in turns, so that no two measure at the same time."""

    def __init__(
        self,
        crew: Sequence[Worker],
        settings: ComparisonSettings,
        *,
        now: Callable[[], float] = time.monotonic,
        tell: ProgressCallback = lambda what, share: None,
    ) -> None:
        self._crew = dict(enumerate(crew))
        self._settings = settings
        self._now = now
        self._tell = tell
        self._begun = now()
        self._budget = 0.0
        self.notes: list[str] = []

    def run(self, names: Sequence[str]) -> tuple[list[MeasuredWorkload], list[MeasuredWorkload]]:
        """The workloads measured, and the mixtures that the costs of mechanisms are fitted from."""
        self._budget = self._settings.budget(len(names))
        found = [MeasuredWorkload(name) for name in names]
        for measured in found:
            self._prepare(measured)
        for measured in found:
            self._count(measured)
        mixtures = self._mixtures() if any(measured.times for measured in found) else []
        self._measure(found)
        return found, mixtures

    def managers(self) -> ArmTimes:
        """Nanoseconds to enter and leave each manager, over all members."""
        taken: ArmTimes = {}
        for number in list(self._crew):
            for arm, values in (self._ask(number, "managers", seconds=0.02) or {}).items():
                taken.setdefault(arm, []).extend(values)
        return taken

    @property
    def members(self) -> int:
        return len(self._crew)

    @property
    def remaining_s(self) -> float:
        return self._budget - (self._now() - self._begun)

    def _say(self, what: str) -> None:
        self._tell(what, min(1.0, 1 - self.remaining_s / self._budget))

    def _ask(self, number: int, verb: str, **values: Any) -> Any:
        """What a member answers; None where it was lost, which leaves the others."""
        try:
            return self._crew[number].ask(verb, **values)
        except WorkerDied as loss:
            self._crew.pop(number).close()
            self.notes.append(f"{loss}; {len(self._crew)} remained")
            return None

    def _prepare(self, measured: MeasuredWorkload) -> None:
        """In each member, as far as time allows: of calls that take seconds, few can be afforded."""
        for number in list(self._crew):
            self._say(f"preparing {measured.name}")
            rounds = MIN_TURNS * max(len(measured.times), 1)
            if measured.facts and self.remaining_s < rounds * measured.round_s:
                break
            facts = self._ask(number, "prepare", name=measured.name)
            if facts is None:
                measured.crash = self.notes[-1].partition(";")[0]
                return  # it would end the others as well
            if measured.facts and facts["arms"] != measured.facts["arms"]:
                measured.notes.append(
                    "fails in some processes and not in others; those in which it fails were left out"
                )
                if len(facts["arms"]) < len(measured.arms):
                    continue
            measured.facts = measured.facts or facts
            if facts["arms"]:
                measured.times[number] = {arm: [] for arm in facts["arms"]}
        asked = self._settings.processes
        if 0 < len(measured.times) < min(asked, len(self._crew)):
            measured.notes.append(
                f"takes {measured.facts['call_ns'] / 1e9:.2g} s a call: the budget allowed {len(measured.times)} processes "
                f"of {asked}; give a larger one"
            )

    def _count(self, measured: MeasuredWorkload) -> None:
        """In a pass that is not timed, in one member."""
        number = next((number for number in measured.times if number in self._crew), None)
        if number is None:
            return
        calls = 2 * len(measured.arms) * measured.facts["call_ns"] / 1e9
        if calls > COUNTING_BUDGET_SHARE * self._budget:
            measured.notes.append("takes so long that the budget allowed no pass that counts; give a larger one")
            return
        self._say(f"counting {measured.name}")
        measured.mechanisms = self._ask(number, "mechanisms", name=measured.name) or {}
        if number in self._crew:
            measured.account = self._ask(number, "account", name=measured.name) or {}

    def _mixtures(self) -> list[MeasuredWorkload]:
        """Each in one member: what differs between processes then averages out over the mixtures."""
        allowed = FITTING_BUDGET_SHARE * self.remaining_s
        number = min(MIXTURES, int(allowed / (2 * MIXTURE_S)))
        if number < MIN_MIXTURES:
            self.notes.append("the budget is too small to fit the costs of mechanisms, so no difference is explained")
            return []
        found: list[MeasuredWorkload] = []
        for index, name in enumerate(self._ask_all("add_mixtures", count=number)):
            if not self._crew:
                break
            self._say("fitting the costs of mechanisms")
            member = list(self._crew)[index % len(self._crew)]
            mixture = MeasuredWorkload(name)
            mixture.facts = self._ask(member, "prepare", name=name, warm_up_s=MIXTURE_S / 3) or {}
            if mixture.facts.get("arms"):
                mixture.mechanisms = self._ask(member, "mechanisms", name=name) or {}
                times = self._ask(member, "measure", name=name, seconds=MIXTURE_S, rounds=MIXTURE_ROUNDS)
                if times is not None:
                    mixture.keep(member, times)
                    found.append(mixture)
        return found

    def _ask_all(self, verb: str, **values: Any) -> list[str]:
        answers = [self._ask(number, verb, **values) for number in list(self._crew)]
        return next((answer for answer in answers if answer is not None), [])

    def _measure(self, found: Sequence[MeasuredWorkload]) -> None:
        """Sweeps over the workloads that are not narrow yet. Of each, every process takes a turn.

        A first turn is had by all whose rounds are short, however small the budget.
        """
        waiting = [measured for measured in found if measured.times]
        while waiting:
            for measured in list(waiting):
                if self.remaining_s > 0 or (not measured.turns and measured.round_s < TURN_S):
                    self._turn(measured)
                if not measured.times or self.remaining_s <= 0 or measured.is_precise(self._settings):
                    waiting.remove(measured)
        for measured in found:
            number = next((number for number in measured.times if number in self._crew), None)
            if number is not None:
                measured.facts["issued"] = self._ask(number, "issued", name=measured.name)
            if measured.times and not any(taken for times in measured.times.values() for taken in times.values()):
                measured.notes.append("was not measured: the budget ended before; give a larger one")

    def _turn(self, measured: MeasuredWorkload) -> None:
        for number in list(measured.times):
            if self.remaining_s <= 0 and (measured.turns or measured.round_s >= TURN_S):
                break
            self._say(measured.name)
            if number not in self._crew:
                continue
            seconds = TURN_S if self.remaining_s > 0 else TURN_S / 4
            try:
                times = self._ask(number, "measure", name=measured.name, seconds=seconds, rounds=1)
            except GradprobeError as error:
                measured.crash = f"failed while it was timed, after it had run before: {error}"
                measured.times.clear()
                return
            if times is not None:
                measured.keep(number, times)
        measured.turns += 1
