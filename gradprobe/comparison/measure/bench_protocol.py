"""Interface between the experiment and the processes that measure: ``BenchProtocol`` and what its methods return."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from gradprobe.comparison.state.outputs import OutputDifference
from gradprobe.comparison.workloads.sources import WorkloadSource

WARM_UP_S: Final = 0.2


@dataclass
class PreparationFacts:
    """Result of preparing one workload in one process."""

    arms: list[str] = field(default_factory=list)
    """Arms that can be timed, the control among them."""
    errors: dict[str, str] = field(default_factory=dict)
    """Error by arm that cannot be timed."""
    differences: dict[str, OutputDifference] = field(default_factory=dict)
    """Difference of the outputs to those of the baseline, by arm."""
    notes: list[str] = field(default_factory=list)
    calls: int = 1
    """Number of calls in one block."""
    call_ns: float = math.nan
    """Nanoseconds of one call; NaN if no call returned."""
    warm_up_rounds: int = 0

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> PreparationFacts:
        """Return the facts whose ``dataclasses.asdict`` form crossed a pipe as JSON."""
        differences = {arm: OutputDifference(**one) for arm, one in plain["differences"].items()}
        return cls(**{**plain, "differences": differences})


@dataclass
class CountingPass:
    """Result of one counting pass, which takes one call of each arm."""

    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Number of each thing that was counted, by arm and name."""
    errors: dict[str, str] = field(default_factory=dict)
    """Error by arm that could not be counted."""


class BenchProtocol(Protocol):
    """Methods that the experiment calls on the bench of a process, in this process or through a pipe."""

    def open(self, source: WorkloadSource) -> list[str]:
        """Open the workloads of a source and return their names."""
        ...

    def add_mixtures(self, count: int) -> list[str]:
        """Add mixtures of small operators, from which the costs of mechanisms are fitted, and return their names."""
        ...

    def prepare(self, name: str, *, warm_up_s: float = WARM_UP_S, to_time: bool = True) -> PreparationFacts:
        """Build a workload, call it in each mode, compare the outputs, and warm it up if ``to_time``."""
        ...

    def measure(self, name: str, *, seconds: float, rounds: int = 1) -> dict[str, list[float]]:
        """Return nanoseconds per call by arm, one value per round, for ``seconds`` and at least ``rounds`` rounds."""
        ...

    def managers(self, *, seconds: float) -> dict[str, list[float]]:
        """Return nanoseconds to enter and exit each context manager, one value per round."""
        ...

    def mechanisms(self, name: str) -> CountingPass:
        """Return the counts of each mechanism for one call, by arm."""
        ...

    def account(self, name: str) -> CountingPass:
        """Return what a recording at level `ops` shows of one call, by arm."""
        ...

    def issued(self, name: str) -> float | None:
        """Return the median share of a block in which the host was issuing work; None without an accelerator."""
        ...

    def instructions(self, name: str, folder: str) -> dict[str, float]:
        """Return the machine instructions of one call by arm. Requires that the process runs under callgrind."""
        ...


BENCH_METHODS: Final = tuple(name for name in vars(BenchProtocol) if not name.startswith("_"))
"""Names of the methods that a worker process accepts in requests."""
