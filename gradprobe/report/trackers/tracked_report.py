"""The part of a recording that experiment trackers show: scalars, the findings, and the report as a page."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from gradprobe.analysis.findings.catalogue import ERROR, NOTE, WARNING
from gradprobe.analysis.time_by_mode import MODES, sum_by_mode, sum_nodes
from gradprobe.report.formats.registry import find_format, render_text
from gradprobe.report.units import format_location
from gradprobe.tables.recording_tables import RecordingTables


@dataclass(frozen=True)
class TrackedReport:
    """What a tracker gets of a recording: names begin with ``prefix``, and ``step`` is the tracker's own if it is None."""

    prefix: str
    step: int | None
    scalars: dict[str, float]
    findings: pd.DataFrame
    page: str
    """The report in HTML."""

    @property
    def file_name(self) -> str:
        """Name of a file for the page, in trackers that keep files in one folder."""
        return f"{self.prefix.replace('/', '.')}.html"


def build_report(tables: RecordingTables, *, prefix: str, step: int | None) -> TrackedReport:
    """Build what trackers log of a recording."""
    scalars = {f"{prefix}/{name}": value for name, value in _measure(tables).items()}
    return TrackedReport(prefix, step, scalars, _list_findings(tables), render_text(tables, find_format("html")))


def _measure(tables: RecordingTables) -> dict[str, float]:
    """Return the scalars by name; one that was not measured is missing, because 0 is a measurement."""
    scalars: dict[str, float | None] = {"nodes": sum_nodes(tables.processes)}
    saved = [process.saved_bytes for process in tables.processes]
    scalars["saved_bytes"] = sum(known for known in saved if known is not None) if None not in saved else None
    shares = {time.mode: time.share for time in sum_by_mode(tables.processes)}
    if any(shares.values()):
        # A tracker draws a line through the steps: a mode that does not occur in one of them is at 0 there.
        scalars |= {f"time_share/{mode.replace(' + ', '_and_')}": shares.get(mode, 0.0) for mode in MODES}
    severities = tables.findings["severity"].tolist()
    scalars |= {f"findings/{severity}": severities.count(severity) for severity in (ERROR, WARNING, NOTE)}
    return {name: value for name, value in scalars.items() if value is not None}


def _list_findings(tables: RecordingTables) -> pd.DataFrame:
    """Return the findings with related lines as text, which is all that the tables of trackers can show."""
    related = [
        "; ".join(f"{line['role']}: {format_location(line['file'], line['line'])}" for line in lines)
        for lines in tables.findings["related"]
    ]
    findings = tables.findings.assign(related=related).astype(object)
    shown: pd.DataFrame = findings.where(findings.notna(), None)
    return shown
