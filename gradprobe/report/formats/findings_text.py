"""Findings as lines for a terminal: a place that editors know, the rule, what is wrong, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.suppression import SuppressedFinding
from gradprobe.report.units import escape_unprintable, pluralize


def format_findings(findings: Sequence[Finding]) -> Iterator[str]:
    """Each finding with the places that belong to it, and its fix."""
    for finding in findings:
        times = f" ({finding.count:,} times)" if finding.count > 1 else ""
        at = _at(finding.file, finding.line)
        yield f"{at}: {finding.severity} {finding.rule}: {escape_unprintable(finding.message)}{times}"
        for place in finding.related:
            yield f"    {escape_unprintable(place.role)}: {_at(place.file, place.line)}"
        yield f"    fix: {escape_unprintable(finding.advice)}"


def format_suppressed(findings: Sequence[SuppressedFinding]) -> Iterator[str]:
    """Each suppressed finding in a line, with what silences it."""
    for each in findings:
        at = _at(each.finding.file, each.finding.line)
        yield f"{at}: {each.finding.rule} suppressed by {escape_unprintable(each.by)}"


def format_summary(shown: Sequence[Finding], hidden: Sequence[SuppressedFinding]) -> str:
    """How many of each severity."""
    counts = [
        pluralize(number, severity)
        for severity in ("error", "warning", "note")
        if (number := sum(finding.severity == severity for finding in shown))
    ]
    told = ", ".join(counts) or "nothing found"
    return f"{told}; {pluralize(len(hidden), 'finding')} suppressed" if hidden else told


def _at(file: str | None, line: int | None) -> str:
    return "(no place)" if file is None else f"{escape_unprintable(file)}:{line}"
