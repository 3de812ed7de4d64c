"""Results of tests as plain values, which pytest's reports carry from workers to the main process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gradprobe.analysis.findings.finding import Finding, RelatedLine

MODE_NAMES = {(True, False): "grad", (False, False): "no_grad", (False, True): "inference_mode"}
MODE_NAMES[True, True] = "inference_mode + enable_grad"

MODE = "the mode"
"""Name of what most leaks are about."""


@dataclass(frozen=True)
class CountedPlace:
    """Line that constructed nodes, saved bytes or bumped counters: how much, and by which operator."""

    file: str | None
    line: int | None
    function: str | None
    op: str
    amount: int


@dataclass(frozen=True)
class ModeLeak:
    """Mode left changed ``by`` a ``test``, ``fixture``, ``collection`` or ``import``, and its line.

    ``what`` names what was left: the mode, or another part of the global state.
    """

    by: str
    name: str
    before: str
    after: str
    file: str | None = None
    line: int | None = None
    what: str = MODE

    def __str__(self) -> str:
        at = "" if self.file is None else f" at {self.file}" + ("" if self.line is None else f":{self.line}")
        return f"{self.by} {self.name} left {self.what} at {self.after} instead of {self.before}{at}"


@dataclass(frozen=True)
class MeasuredTest:
    """Counts of one test's body; None for ``saved_bytes`` and ``version_bumps`` below level ops."""

    test: str
    level: str
    duration_ns: int
    nodes: int | None = None
    saved_bytes: int | None = None
    version_bumps: int | None = None
    had_backward: bool = False
    passed: bool = True
    places: Sequence[CountedPlace] = ()
    """Lines that constructed most nodes, the largest amount first."""


@dataclass
class RunResults:
    """Results of all tests of a run."""

    outcomes: list[MeasuredTest] = field(default_factory=list)
    leaks: list[tuple[str, ModeLeak]] = field(default_factory=list)
    comparisons: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    findings: list[tuple[str, Finding]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, test: str, plain: Mapping[str, Any]) -> None:
        """Add what ``PhaseReport.as_plain`` returned for a phase of ``test``, in this process or another."""
        if plain.get("outcome") is not None:
            places = tuple(CountedPlace(**one) for one in plain["outcome"]["places"])
            self.outcomes.append(MeasuredTest(**{**plain["outcome"], "places": places}))
        self.leaks += [(test, ModeLeak(**one)) for one in plain["leaks"]]
        self.comparisons += [(test, one) for one in plain["comparisons"]]
        self.broken += [(test, one) for one in plain["broken"]]
        self.notes += plain["notes"]
        for one in plain["findings"]:
            self.findings.append(
                (test, Finding(**{**one, "related": tuple(RelatedLine(**at) for at in one["related"])}))
            )


@dataclass
class PhaseReport:
    """Results of one phase of one test: setup, call or teardown."""

    outcome: MeasuredTest | None = None
    leaks: list[ModeLeak] = field(default_factory=list)
    comparisons: list[Mapping[str, Any]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_plain(self) -> dict[str, Any] | None:
        """Return lists, dicts, text and numbers only; None if the phase has no results."""
        if self.outcome is None and not (self.leaks or self.comparisons or self.broken or self.findings or self.notes):
            return None
        outcome = (
            None if self.outcome is None else {**asdict(self.outcome), "places": list(map(asdict, self.outcome.places))}
        )
        return {
            "outcome": outcome,
            "leaks": [asdict(leak) for leak in self.leaks],
            "comparisons": [dict(one) for one in self.comparisons],
            "broken": list(self.broken),
            "findings": [{**asdict(one), "related": [asdict(at) for at in one.related]} for one in self.findings],
            "notes": list(self.notes),
        }
