"""What a comparison found, as plain records, and the sentences that follow from it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gradprobe.errors import GradprobeError

COMPARISON_SCHEMA: Final = 1
BASELINE: Final = "no_grad"
UNUSABLE: Final = "unusable"
NOISY_CONTROL: Final = 0.01
NAN: Final = math.nan
_RATIOS: Final = ("ratio", "ci_low", "ci_high")


@dataclass(frozen=True)
class ArmResult:
    """One workload under one mode. Ratios are to `no_grad`; times are nanoseconds per call; NaN where not measured."""

    mode: str
    verdict: str
    median_ns: float = NAN
    ratio: float = NAN
    ci_low: float = NAN
    ci_high: float = NAN
    rounds: int = 0
    process_ratios: tuple[float, ...] = ()
    nodes: float = NAN
    counters_created: float = NAN
    version_bumps: float = NAN
    tracked_views: float = NAN
    saved_bytes: float = NAN
    saved_tensors: float = NAN
    inference_tensors: float = NAN
    operators: float = NAN
    instructions: float = NAN
    explained_ns: Mapping[str, float] = field(default_factory=dict)
    """By mechanism, what its cost on this machine makes of the difference to the baseline."""
    difference: str = ""
    differs: bool = False
    error: str = ""

    def measured_ns(self, baseline_ns: float) -> float:
        """The difference to the baseline, per call."""
        return (self.ratio - 1) * baseline_ns


@dataclass(frozen=True)
class WorkloadResult:
    """One workload under each mode, and the baseline against itself: the control."""

    workload: str
    arms: tuple[ArmResult, ...]
    control: ArmResult | None = None
    calls: int = 1
    """Calls to a block."""
    processes: int = 0
    issued: float | None = None
    """On an accelerator, the share of the time in which the host was still issuing work."""
    notes: tuple[str, ...] = ()

    def arm(self, mode: str) -> ArmResult | None:
        return next((arm for arm in self.arms if arm.mode == mode), None)


@dataclass(frozen=True)
class ComparisonOutcome:
    """All of a comparison."""

    workloads: tuple[WorkloadResult, ...]
    environment: Mapping[str, Any]
    settings: Mapping[str, Any]
    costs_ns: Mapping[str, float] = field(default_factory=dict)
    """Nanoseconds of each mechanism on this machine; empty where they were not fitted."""
    managers_ns: Mapping[str, float] = field(default_factory=dict)
    """Nanoseconds to enter and leave each manager."""
    notes: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON has it: what was not measured is null."""
        return {"schema": COMPARISON_SCHEMA, "kind": "comparison", **_plain(dataclasses.asdict(self))}


def parse_outcome(plain: Mapping[str, Any], where: str) -> ComparisonOutcome:
    """The outcome from what ``plain`` gave. Raises ``GradprobeError`` for what is none."""
    if plain.get("kind") != "comparison":
        raise GradprobeError(f"{where} is no comparison; name a JSON file that gradprobe compare -o wrote")
    if plain.get("schema") != COMPARISON_SCHEMA:
        raise GradprobeError(
            f"{where} has schema {plain.get('schema')}, this version reads {COMPARISON_SCHEMA}; compare again"
        )
    try:
        workloads = tuple(
            WorkloadResult(
                **{
                    **one,
                    "arms": tuple(_arm(arm) for arm in one["arms"]),
                    "control": None if one["control"] is None else _arm(one["control"]),
                    "notes": tuple(one["notes"]),
                }
            )
            for one in plain["workloads"]
        )
        rest = {key: dict(plain[key].items()) for key in ("environment", "settings", "costs_ns", "managers_ns")}
        return ComparisonOutcome(workloads, **rest, notes=tuple(plain["notes"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GradprobeError(f"{where} is damaged ({error}); compare again") from None


def _arm(plain: Mapping[str, Any]) -> ArmResult:
    numbers = {f.name for f in dataclasses.fields(ArmResult) if f.type == "float"}
    values: dict[str, Any] = {k: NAN if value is None and k in numbers else value for k, value in plain.items()}
    for name in sorted(numbers & set(values)):
        if not isinstance(values[name], int | float) or (
            name in _RATIOS and not (values[name] > 0 or math.isnan(values[name]))
        ):
            raise ValueError(f"{name} is {values[name]!r:.40}")
    # What is no number was written as null.
    ratios = tuple(NAN if ratio is None else float(ratio) for ratio in plain["process_ratios"])
    explained = {str(part): float(ns) for part, ns in plain["explained_ns"].items() if ns is not None}
    return ArmResult(**{**values, "process_ratios": ratios, "explained_ns": explained})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def format_percent_change(ratio: float) -> str:
    """A ratio as what it adds, in per cent."""
    return f"{(ratio - 1) * 100:+.1f} %"


def compute_explained_share(compared: WorkloadResult, arm: ArmResult) -> float:
    """How much of the difference to the baseline the mechanisms explain: 1 less what they miss, NaN where not known."""
    baseline = compared.arm(BASELINE)
    if baseline is None or not arm.explained_ns:
        return NAN
    measured = arm.measured_ns(baseline.median_ns)
    return 1 - abs(measured - sum(arm.explained_ns.values())) / abs(measured) if measured else NAN


def write_advice(compared: WorkloadResult, mode: str = "inference_mode") -> str:
    """One sentence: whether to take ``mode`` in place of `no_grad` here, and why."""
    arm, baseline = compared.arm(mode), compared.arm(BASELINE)
    if arm is None or baseline is None:
        return f"{mode} was not measured."
    if all(one.error == arm.error for one in compared.arms) and arm.error:
        return f"fails in every mode: {arm.error}."
    if baseline.error:
        return f"no_grad is not usable here ({baseline.error}), so there is nothing to compare with."
    if arm.error:
        return f"{mode} is not usable here: {arm.error}."
    if arm.differs:
        return f"{mode} returns something else here ({arm.difference}): do not swap before that is understood."
    if math.isnan(arm.ci_low):
        return "undecided: the budget ended before two observations were made; give a larger one."
    interval = f"({_span(arm)})"
    if arm.verdict == "faster":
        saved = (1 - arm.ratio) * 100
        return f"{mode} saves {saved:.1f} per cent {interval} here{_reasons(arm, baseline)}{_left(compared)}."
    if arm.verdict == "slower":
        return f"{mode} costs {(arm.ratio - 1) * 100:.1f} per cent more {interval} here: stay with no_grad."
    if arm.verdict == "equivalent":
        return f"no difference that matters {interval}: {_why_none(arm, baseline)}."
    return f"undecided {interval}: measure longer, or on a quieter machine."


def _span(arm: ArmResult) -> str:
    if arm.verdict == "faster":
        return f"{(1 - arm.ci_high) * 100:.1f} to {(1 - arm.ci_low) * 100:.1f}"
    if arm.verdict == "slower":
        return f"{(arm.ci_low - 1) * 100:.1f} to {(arm.ci_high - 1) * 100:.1f}"
    return f"{format_percent_change(arm.ci_low)} to {format_percent_change(arm.ci_high)}"


def _reasons(arm: ArmResult, baseline: ArmResult) -> str:
    gone = [
        (baseline.tracked_views - arm.tracked_views, "tracked view"),
        (baseline.counters_created - arm.counters_created, "version counter"),
        (baseline.version_bumps - arm.version_bumps, "version bump"),
    ]
    told = [f"{number:,.0f} {noun}{'' if number == 1 else 's'}" for number, noun in gone if number > 0]
    return f": {' and '.join(told[:2])} per call go away" if told else ""


def _left(compared: WorkloadResult) -> str:
    left = [note for note in compared.notes if note.startswith("leaves ")]
    return f"; but it {left[0]}" if left else "; nothing escapes but what it returns"


def _why_none(arm: ArmResult, baseline: ArmResult) -> str:
    explained = abs(sum(arm.explained_ns.values()))
    if arm.explained_ns and explained < 0.01 * baseline.median_ns:
        return "kernels dominate"
    return "what the mode saves is small beside the rest of the call"


def find_noise_warnings(outcome: ComparisonOutcome) -> list[str]:
    """What a reader must know before believing the numbers, with what to try."""
    found = []
    noisy = [
        c
        for c in outcome.workloads
        if c.control is not None and c.control.ci_low > 0 and _reach(c.control) > NOISY_CONTROL
    ]
    if noisy:
        worst = max(noisy, key=lambda c: _reach(c.control) if c.control is not None else 0.0)
        assert worst.control is not None
        where = f" on {worst.workload}"
        if len(noisy) > 1:
            where += f", and beyond one per cent on {len(noisy)} of {len(outcome.workloads)} workloads"
        found.append(
            f"The machine is noisy: no_grad against itself came to {format_percent_change(worst.control.ci_low)} to "
            f"{format_percent_change(worst.control.ci_high)}{where}.{_causes(outcome.environment)} Try: a longer budget, other programs "
            "closed, a fixed clock frequency, fewer threads than cores."
        )
    return found


def _reach(arm: ArmResult) -> float:
    return max(abs(math.log(arm.ci_low)), abs(math.log(arm.ci_high)))


def _causes(environment: Mapping[str, Any]) -> str:
    causes = []
    load, cpus = environment.get("load_average"), environment.get("cpus")
    if load is not None and cpus and load > 0.5 * cpus:
        causes.append(f"the load average was {load:.1f} on {cpus} processors before it began")
    governor = environment.get("cpu_governor")
    if governor not in (None, "performance"):
        causes.append(f"the processor's frequency follows its load (governor {governor})")
    return f" Likely: {'; '.join(causes)}." if causes else ""
