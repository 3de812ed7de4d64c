"""Records of a comparison: one outcome, with a result for each workload and for each mode of a workload."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

BASELINE: Final = "no_grad"
UNUSABLE: Final = "unusable"
NAN: Final = math.nan


@dataclass(frozen=True)
class ArmResult:
    """Result of one workload under one mode. Ratios are to `no_grad`, times are nanoseconds per call, counts are per call.

    Numbers that were not measured are NaN.
    """

    mode: str
    verdict: str
    median_ns: float = NAN
    ratio: float = NAN
    ci_low: float = NAN
    """Lower end of the 95 % interval of the ratio."""
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
    """Part of the difference to the baseline that the cost of each mechanism on this machine explains."""
    difference: str = ""
    """Description of the difference of the outputs to those of the baseline."""
    differs: bool = False
    """True if that difference is more than rounding."""
    error: str = ""

    def measured_ns(self, baseline_ns: float) -> float:
        """Return the difference to the baseline in nanoseconds per call."""
        return (self.ratio - 1) * baseline_ns


@dataclass(frozen=True)
class WorkloadResult:
    """Results of one workload under each mode, and of the control: the baseline measured against itself."""

    workload: str
    arms: tuple[ArmResult, ...]
    control: ArmResult | None = None
    calls: int = 1
    """Number of calls in one block."""
    processes: int = 0
    issued: float | None = None
    """Share of the time in which the host was issuing work, on an accelerator."""
    notes: tuple[str, ...] = ()

    def arm(self, mode: str) -> ArmResult | None:
        """Return the result under a mode; None if the mode was not measured."""
        return next((arm for arm in self.arms if arm.mode == mode), None)


@dataclass(frozen=True)
class ComparisonOutcome:
    """All records of a comparison."""

    workloads: tuple[WorkloadResult, ...]
    environment: Mapping[str, Any]
    settings: Mapping[str, Any]
    costs_ns: Mapping[str, float] = field(default_factory=dict)
    """Nanoseconds of each mechanism on this machine; empty if they were not fitted."""
    managers_ns: Mapping[str, float] = field(default_factory=dict)
    """Nanoseconds to enter and exit each context manager."""
    notes: tuple[str, ...] = ()


def compute_explained_share(result: WorkloadResult, arm: ArmResult) -> float:
    """Return the share of the difference to the baseline that the mechanisms explain; NaN if it is not known."""
    baseline = result.arm(BASELINE)
    if baseline is None or not arm.explained_ns:
        return NAN
    measured = arm.measured_ns(baseline.median_ns)
    return 1 - abs(measured - sum(arm.explained_ns.values())) / abs(measured) if measured else NAN
