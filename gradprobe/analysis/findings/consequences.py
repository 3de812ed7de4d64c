"""Findings that belong together: effects of what another finding names, and the same mistake at several lines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from gradprobe.analysis.findings.catalogue import ERROR, NOTE
from gradprobe.analysis.findings.finding import Finding, RelatedLine

_CAUSES = {
    "GP204": ("GP104", "GP106", "GP701", "GP702", "GP706"),
    "GP511": ("GP526",),
    "GP514": ("GP516", "GP517"),
    "GP612": ("GP101", "GP703", "GP704", "GP705"),
}
"""Rules whose findings say why: a graph that no mode prevented, parameters in a checkpoint that runs without grad, a leaf
that an update did not reach, a result without a graph under a mode that was left on."""

_HABITS = ("GP102", "GP302", "GP702", "GP801")
"""Rules about a way of writing that does not work: who wrote it once has often written it again."""
_MAX_REPETITIONS = 3


def link_repetitions(findings: Iterable[Finding]) -> list[Finding]:
    """Add to the findings of one habit in one file the other lines that have it, so that they are edited together."""
    found = list(findings)
    lines: dict[tuple[str, str | None], list[RelatedLine]] = defaultdict(list)
    for finding in found:
        if finding.rule in _HABITS and finding.severity != NOTE and finding.file and finding.line:
            lines[finding.rule, finding.file].append(RelatedLine(finding.file, finding.line, "the same mistake here"))
    return [_link(finding, lines[finding.rule, finding.file]) for finding in found]


def _link(finding: Finding, lines: list[RelatedLine]) -> Finding:
    known = {finding.line, *(at.line for at in finding.related if at.file == finding.file)}
    others = [at for at in lines if at.line not in known] if finding.severity != NOTE else []
    return replace(finding, related=(*finding.related, *others[:_MAX_REPETITIONS])) if others else finding


def drop_consequences(findings: Iterable[Finding]) -> list[Finding]:
    """Leave out findings below an error that share their line with the finding of their cause."""
    found = list(findings)
    return [finding for finding in found if not any(_is_consequence(finding, other) for other in found)]


def _is_consequence(finding: Finding, cause: Finding) -> bool:
    if (finding.rule, finding.severity, cause.rule) == ("GP204", NOTE, "GP201"):
        # What a running total adds up is not used by backward, and detaching it is the edit.
        return (finding.file, finding.line) == (cause.file, cause.line)
    if cause.rule not in _CAUSES.get(finding.rule, ()) or finding.severity == ERROR:
        return False
    lines = {(cause.file, cause.line), *((related.file, related.line) for related in cause.related)}
    built = {(at.file, at.line) for at in finding.related if at.role == "graph built here"}
    return bool(lines & {(finding.file, finding.line), *built})
