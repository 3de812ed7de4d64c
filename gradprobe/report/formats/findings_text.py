"""Findings as lines for a terminal: a place that editors know, the rule, what is wrong, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.suppression import Suppressed
from gradprobe.report.units import many, printable


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Each finding with the places that belong to it, and its fix."""
    for finding in findings:
        times = f" ({finding.count:,} times)" if finding.count > 1 else ""
        at = _at(finding.file, finding.line)
        yield f"{at}: {finding.severity} {finding.rule}: {printable(finding.message)}{times}"
        for place in finding.related:
            yield f"    {printable(place.role)}: {_at(place.file, place.line)}"
        yield f"    fix: {printable(finding.advice)}"


def silenced(findings: Sequence[Suppressed]) -> Iterator[str]:
    """Each suppressed finding in a line, with what silences it."""
    for each in findings:
        at = _at(each.finding.file, each.finding.line)
        yield f"{at}: {each.finding.rule} suppressed by {printable(each.by)}"


def summary(shown: Sequence[Finding], hidden: Sequence[Suppressed]) -> str:
    """How many of each severity."""
    counts = [
        many(number, severity)
        for severity in ("error", "warning", "note")
        if (number := sum(finding.severity == severity for finding in shown))
    ]
    told = ", ".join(counts) or "nothing found"
    return f"{told}; {many(len(hidden), 'finding')} suppressed" if hidden else told


def _at(file: str | None, line: int | None) -> str:
    return "(no place)" if file is None else f"{printable(file)}:{line}"
