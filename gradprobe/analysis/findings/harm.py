"""Order of findings: the most harmful first, in every report and table alike."""

from __future__ import annotations

from collections.abc import Iterable

from gradprobe.analysis.findings.catalogue import SEVERITIES
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.line_costs import NO_COST, LineCost, sum_by_line
from gradprobe.tables.recording_tables import RecordingTables

_LOST_GRADIENTS = frozenset(
    {"GP511", "GP512", "GP513", "GP514", "GP516", "GP517", "GP518", "GP519", "GP524", "GP525", "GP526"}
)
"""Rules by which a parameter does not learn what the program computes for it."""


def sort_by_harm(findings: Iterable[Finding], tables: RecordingTables) -> list[Finding]:
    """Return findings of a recording: by severity, lost gradients, kept bytes, nodes at their lines, and number."""
    found = list(findings)
    costs = sum_by_line(tables) if len(found) > 1 else {}
    return sorted(
        found, key=lambda finding: _measure(finding, costs.get((finding.file or "", finding.line or 0), NO_COST))
    )


def _measure(finding: Finding, cost: LineCost) -> tuple[int, bool, int, int, int]:
    severity = SEVERITIES.index(finding.severity)
    nodes = cost.kept_nodes or cost.nodes
    return severity, finding.rule not in _LOST_GRADIENTS, -cost.kept_bytes, -nodes, -finding.count
