"""The experiment: which worker measures which workload for how long, until the intervals are narrow or the budget ends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from gradprobe.analysis.comparison_advice import BUDGET_SETTING
from gradprobe.comparison import measured_modes
from gradprobe.comparison.measure.bench_protocol import BenchProtocol, CountingPass, PreparationFacts
from gradprobe.comparison.settings import ComparisonSettings
from gradprobe.comparison.stats.intervals import Estimate, compute_log_ratios, estimate_ratio
from gradprobe.comparison.workers.worker_handles import Worker, WorkerDied
from gradprobe.errors import GradprobeError

TURN_S: Final = 0.06
"""Seconds of one turn of a worker. Short turns expose all workers to the same conditions of the machine."""
MIN_TURNS: Final = 3
MIN_ROUNDS: Final = 8
FITTING_BUDGET_SHARE: Final = 0.25
COUNTING_BUDGET_SHARE: Final = 0.25
MIXTURES: Final = 48
MIN_MIXTURES: Final = 16
MIXTURE_S: Final = 0.03
MIXTURE_ROUNDS: Final = 10

ArmTimes = dict[str, list[float]]
"""Nanoseconds per call by arm, one value per round."""
ProgressCallback = Callable[[str, float], None]
"""Callback that receives a description of the current step and the share of the budget that is used up."""

Answer = TypeVar("Answer")


@dataclass
class MeasuredWorkload:
    """Measurements of one workload: the facts of its preparation, and its times by worker."""

    name: str
    facts: PreparationFacts | None = None
    """Facts from the first worker that prepared it; None before."""
    times: dict[int, ArmTimes] = field(default_factory=dict)
    crash: str = ""
    turns: int = 0
    notes: list[str] = field(default_factory=list)
    mechanisms: dict[str, dict[str, float]] = field(default_factory=dict)
    account: dict[str, dict[str, Any]] = field(default_factory=dict)
    instructions: dict[str, float] = field(default_factory=dict)
    issued: float | None = None
    """Share of the time in which the host was issuing work, on an accelerator."""

    @property
    def arms(self) -> list[str]:
        """Arms that can be timed."""
        return [] if self.facts is None else self.facts.arms

    @property
    def call_s(self) -> float:
        """Seconds of one call; 0 if not known."""
        return 0.0 if self.facts is None or math.isnan(self.facts.call_ns) else self.facts.call_ns / 1e9

    @property
    def round_s(self) -> float:
        """Seconds of one round."""
        return self.call_s * (1 if self.facts is None else self.facts.calls) * len(self.arms)

    def add_times(self, worker: int, times: ArmTimes) -> None:
        """Append the times of one turn of a worker."""
        known = self.times.setdefault(worker, {arm: [] for arm in times})
        for arm, values in times.items():
            known[arm] += values

    def ratio(self, arm: str, seed: int) -> Estimate:
        """Return the ratio of an arm to the baseline."""
        both = [times for times in self.times.values() if arm in times and measured_modes.BASELINE in times]
        return estimate_ratio(
            [compute_log_ratios(times[arm], times[measured_modes.BASELINE]) for times in both], seed=seed
        )

    def is_precise(self, settings: ComparisonSettings) -> bool:
        """Return whether the intervals are as narrow as the settings require.

        Only widths decide when measuring stops: a rule that looked at the ratios would favour a verdict.
        """
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
    """Measurement by several workers in turns, so that no two measure at the same time."""

    def __init__(
        self,
        workers: Sequence[Worker],
        settings: ComparisonSettings,
        *,
        now: Callable[[], float] = time.monotonic,
        on_progress: ProgressCallback = lambda step, share: None,
    ) -> None:
        self._workers = dict(enumerate(workers))
        self._settings = settings
        self._now = now
        self._on_progress = on_progress
        self._begun = now()
        self._budget = 0.0
        self.notes: list[str] = []

    def run(self, names: Sequence[str]) -> tuple[list[MeasuredWorkload], list[MeasuredWorkload]]:
        """Measure the workloads. Return them, and the mixtures from which the costs of mechanisms are fitted."""
        self._budget = self._settings.budget(len(names))
        workloads = [MeasuredWorkload(name) for name in names]
        for measured in workloads:
            self._prepare(measured)
        for measured in workloads:
            self._count(measured)
        mixtures = self._measure_mixtures() if any(measured.times for measured in workloads) else []
        self._measure(workloads)
        return workloads, mixtures

    def time_managers(self) -> ArmTimes:
        """Return nanoseconds to enter and exit each context manager, over all workers."""
        taken: ArmTimes = {}
        for number in list(self._workers):
            for arm, values in (self._ask(number, lambda bench: bench.managers(seconds=0.02)) or {}).items():
                taken.setdefault(arm, []).extend(values)
        return taken

    @property
    def remaining_s(self) -> float:
        """Seconds of the budget that are left."""
        return self._budget - (self._now() - self._begun)

    def _report_progress(self, step: str) -> None:
        self._on_progress(step, min(1.0, 1 - self.remaining_s / self._budget))

    def _ask(self, number: int, request: Callable[[BenchProtocol], Answer]) -> Answer | None:
        """Return the answer of a worker; None if it has died, in which case the others go on."""
        worker = self._workers.get(number)
        if worker is None:
            return None
        try:
            return request(worker.bench)
        except WorkerDied as death:
            self._workers.pop(number).close()
            self.notes.append(f"{death}; {len(self._workers)} remained")
            return None

    def _ask_times(self, number: int, name: str, *, seconds: float, rounds: int) -> ArmTimes | None:
        return self._ask(number, lambda bench: bench.measure(name, seconds=seconds, rounds=rounds))

    def _ask_issued(self, number: int, name: str) -> float | None:
        return self._ask(number, lambda bench: bench.issued(name))

    def _prepare(self, measured: MeasuredWorkload) -> None:
        """Prepare a workload in each worker, as far as time allows: few calls that take seconds fit into a budget."""
        for number in list(self._workers):
            self._report_progress(f"preparing {measured.name}")
            rounds = MIN_TURNS * max(len(measured.times), 1)
            if measured.facts is not None and self.remaining_s < rounds * measured.round_s:
                break
            facts = self._ask(number, lambda bench: bench.prepare(measured.name))
            if facts is None:
                measured.crash = self.notes[-1].partition(";")[0]
                return  # it would end the other workers as well
            if measured.facts is not None and facts.arms != measured.facts.arms:
                measured.notes.append("fails in some processes and not in others; those in which it fails are left out")
                if len(facts.arms) < len(measured.arms):
                    continue
            measured.facts = measured.facts or facts
            if facts.arms:
                measured.times[number] = {arm: [] for arm in facts.arms}
        requested = self._settings.processes
        if 0 < len(measured.times) < min(requested, len(self._workers)):
            measured.notes.append(
                f"takes {measured.call_s:.2g} s per call: the budget allowed {len(measured.times)} of {requested} "
                f"processes; increase {BUDGET_SETTING}"
            )

    def _count(self, measured: MeasuredWorkload) -> None:
        """Count mechanisms in one worker, in passes that are not timed."""
        number = next((number for number in measured.times if number in self._workers), None)
        if number is None:
            return
        if 2 * len(measured.arms) * measured.call_s > COUNTING_BUDGET_SHARE * self._budget:
            measured.notes.append(f"takes so long that the budget allowed no counting pass; increase {BUDGET_SETTING}")
            return
        self._report_progress(f"counting {measured.name}")
        measured.mechanisms = self._take_counts(
            measured, "counts of mechanisms", self._ask(number, lambda bench: bench.mechanisms(measured.name))
        )
        measured.account = self._take_counts(
            measured, "recording", self._ask(number, lambda bench: bench.account(measured.name))
        )

    def _take_counts(
        self, measured: MeasuredWorkload, what: str, result: CountingPass | None
    ) -> dict[str, dict[str, Any]]:
        """Return the counts of a pass, and note in which modes it failed and why."""
        if result is None:
            return {}
        measured.notes += [f"has no {what} under {arm}: {error}" for arm, error in result.errors.items()]
        return result.counts

    def _measure_mixtures(self) -> list[MeasuredWorkload]:
        """Measure each mixture in one worker: differences between workers average out over the mixtures."""
        allowed = FITTING_BUDGET_SHARE * self.remaining_s
        count = min(MIXTURES, int(allowed / (2 * MIXTURE_S)))
        if count < MIN_MIXTURES:
            self.notes.append("the budget is too small to fit the costs of mechanisms, so no difference is explained")
            return []
        found: list[MeasuredWorkload] = []
        for index, name in enumerate(self._add_mixtures(count)):
            if not self._workers:
                break
            self._report_progress("fitting the costs of mechanisms")
            number = list(self._workers)[index % len(self._workers)]
            mixture = self._measure_mixture(name, number)
            if mixture is not None:
                found.append(mixture)
        return found

    def _measure_mixture(self, name: str, number: int) -> MeasuredWorkload | None:
        mixture = MeasuredWorkload(name)
        mixture.facts = self._ask(number, lambda bench: bench.prepare(name, warm_up_s=MIXTURE_S / 3))
        if not mixture.arms:
            return None
        counts = self._ask(number, lambda bench: bench.mechanisms(name))
        mixture.mechanisms = self._take_counts(mixture, "counts of mechanisms", counts)
        times = self._ask_times(number, name, seconds=MIXTURE_S, rounds=MIXTURE_ROUNDS)
        if times is None:
            return None
        mixture.add_times(number, times)
        return mixture

    def _add_mixtures(self, count: int) -> list[str]:
        answers = [self._ask(number, lambda bench: bench.add_mixtures(count)) for number in list(self._workers)]
        return next((answer for answer in answers if answer is not None), [])

    def _measure(self, workloads: Sequence[MeasuredWorkload]) -> None:
        """Sweep over the workloads that are not precise yet, with a turn of each worker for each workload.

        All workloads with short rounds have a first turn, however small the budget.
        """
        waiting = [measured for measured in workloads if measured.times]
        while waiting:
            for measured in list(waiting):
                if self.remaining_s > 0 or (not measured.turns and measured.round_s < TURN_S):
                    self._take_turn(measured)
                if not measured.times or self.remaining_s <= 0 or measured.is_precise(self._settings):
                    waiting.remove(measured)
        for measured in workloads:
            number = next((number for number in measured.times if number in self._workers), None)
            if number is not None:
                measured.issued = self._ask_issued(number, measured.name)
            if measured.times and not any(taken for times in measured.times.values() for taken in times.values()):
                measured.notes.append(f"was not measured: the budget ended before; increase {BUDGET_SETTING}")

    def _take_turn(self, measured: MeasuredWorkload) -> None:
        for number in list(measured.times):
            if self.remaining_s <= 0 and (measured.turns or measured.round_s >= TURN_S):
                break
            self._report_progress(measured.name)
            if number not in self._workers:
                continue
            seconds = TURN_S if self.remaining_s > 0 else TURN_S / 4
            try:
                times = self._ask_times(number, measured.name, seconds=seconds, rounds=1)
            except GradprobeError as error:
                measured.crash = f"failed while it was timed, although earlier calls succeeded: {error}"
                measured.times.clear()
                return
            if times is not None:
                measured.add_times(number, times)
        measured.turns += 1
