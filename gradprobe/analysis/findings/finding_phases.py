"""Phases of findings: when what a finding is about happened, by the names of ``gradprobe.phase``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

from gradprobe.analysis.findings.evidence import Evidence
from gradprobe.analysis.findings.finding import Finding
from gradprobe.history.row_groups import group_rows

_Line = tuple[str | None, int | None]


def name_phases(findings: Iterable[Finding], evidence: Evidence) -> Iterator[Finding]:
    """Yield the findings with the phases in which they were detected, or else in which their line ran."""
    detected: dict[tuple[str, _Line], dict[str, None]] = defaultdict(dict)
    for located in evidence.detections:
        phase = located.detection.facts.get("phase")
        if isinstance(phase, str) and phase:
            detected[located.detection.rule, (located.main.file, located.main.line)][phase] = None
    ran = _list_phases_by_line(evidence)
    for finding in findings:
        line = (finding.file, finding.line)
        phases = detected.get((finding.rule, line)) or ran.get(line) or {}
        yield finding if finding.phase or not phases else replace(finding, phase=", ".join(phases))


def _list_phases_by_line(evidence: Evidence) -> dict[_Line, dict[str, None]]:
    found: dict[_Line, dict[str, None]] = defaultdict(dict)
    for process in evidence.processes:
        if not process.history.phases.found:
            continue
        columns = process.history.regions.columns
        for numbers in group_rows(columns.site, columns.phase):
            first = process.history.regions[int(numbers[0])]
            if first.phase:
                found[process.place(first.site)[:2]][first.phase] = None
        for (site, _), phases in process.op_totals.phases.items():
            found[process.place(site)[:2]].update(dict.fromkeys(sorted(phases)))
    return found
