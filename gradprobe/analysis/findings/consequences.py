"""Findings that only show the effect of what another finding names."""

from __future__ import annotations

from collections.abc import Iterable

from gradprobe.analysis.findings.catalogue import ERROR
from gradprobe.analysis.findings.finding import Finding

_CAUSES = {
    "GP204": ("GP104", "GP106", "GP701", "GP702", "GP706"),
    "GP612": ("GP101", "GP703", "GP704", "GP705"),
}
"""Rules whose findings say why: a graph that no mode prevented, a result without a graph under a mode that was left on."""


def drop_consequences(findings: Iterable[Finding]) -> list[Finding]:
    """Leave out findings below an error that share their line with the finding of their cause."""
    found = list(findings)
    return [finding for finding in found if not any(_is_consequence(finding, other) for other in found)]


def _is_consequence(finding: Finding, cause: Finding) -> bool:
    if cause.rule not in _CAUSES.get(finding.rule, ()) or finding.severity == ERROR:
        return False
    lines = {(cause.file, cause.line), *((related.file, related.line) for related in cause.related)}
    built = {(at.file, at.line) for at in finding.related if at.role == "graph built here"}
    return bool(lines & {(finding.file, finding.line), *built})
