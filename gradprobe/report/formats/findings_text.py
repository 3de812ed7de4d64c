"""Findings as lines for a terminal: a location that editors recognise, rule, message and fix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.findings.catalogue import SEVERITIES
from gradprobe.analysis.findings.finding import Finding, describe_count
from gradprobe.analysis.findings.suppression import SuppressedFinding
from gradprobe.phases import AFTER_BACKWARD
from gradprobe.report.units import escape_unprintable


def format_findings(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield the lines of each finding: location and message, related locations, fix."""
    for finding in findings:
        yield format_concisely(finding)
        if finding.phase and finding.phase != AFTER_BACKWARD:
            yield f"    phase: {escape_unprintable(finding.phase)}"
        for place in finding.related:
            yield f"    {escape_unprintable(place.role)}: {_format_location(place.file, place.line)}"
        yield f"    fix: {escape_unprintable(finding.advice)}"


def format_concisely(finding: Finding) -> str:
    """Return the first line of a finding: its location, severity, rule and message."""
    times = describe_count(finding.rule, finding.count)
    location = _format_location(finding.file, finding.line)
    return f"{location}: {finding.severity} {finding.rule}: {escape_unprintable(finding.message)}{times}"


def format_suppressed(findings: Sequence[SuppressedFinding]) -> Iterator[str]:
    """Yield a line per suppressed finding, with the comment or the setting that suppresses it."""
    for each in findings:
        location = _format_location(each.finding.file, each.finding.line)
        yield f"{location}: {each.finding.rule} suppressed by {escape_unprintable(each.by)}"


def format_summary(shown: Sequence[Finding], suppressed: Sequence[SuppressedFinding]) -> str:
    """Return the number of findings of each severity, and of suppressed ones."""
    counts = [
        pluralize(number, severity)
        for severity in SEVERITIES
        if (number := sum(finding.severity == severity for finding in shown))
    ]
    summary = ", ".join(counts) or "nothing found"
    return f"{summary}; {pluralize(len(suppressed), 'finding')} suppressed" if suppressed else summary


def _format_location(file: str | None, line: int | None) -> str:
    """Return the path as it was given, unlike in reports: editors open it from the working directory."""
    return "(no location)" if file is None else f"{escape_unprintable(file)}:{line}"
