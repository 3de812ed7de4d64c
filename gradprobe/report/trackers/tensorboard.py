"""Recordings in TensorBoard, by a ``SummaryWriter`` of PyTorch or of tensorboardX.

TensorBoard shows no pages, so the report lies as a file beside the events and the text names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradprobe._files import write_atomically
from gradprobe.report.formats.code_hosts import render_cell
from gradprobe.report.trackers.tracked_report import TrackedReport
from gradprobe.report.units import format_location

_HEADERS = ("rule", "severity", "place", "finding", "count", "fix")


def log_report(report: TrackedReport, writer: Any) -> None:
    """Log a report through a ``SummaryWriter``."""
    for name, value in report.scalars.items():
        writer.add_scalar(name, value, report.step)
    text = f"{_render_findings(report)}\n\n{_store_page(report, writer)}"
    writer.add_text(f"{report.prefix}/findings", text, report.step)


def _render_findings(report: TrackedReport) -> str:
    """Return the findings as a table in Markdown."""
    if report.findings.empty:
        return "Nothing found."
    rows = [
        (row.rule, row.severity, format_location(row.file, row.line), row.message, f"{row.count:,}", row.fix)
        for row in report.findings.itertuples()
    ]
    lines = [_HEADERS, ["---"] * len(_HEADERS), *([render_cell(str(cell)) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _store_page(report: TrackedReport, writer: Any) -> str:
    """Write the page beside the events, and return where it is."""
    folder = str(getattr(writer, "log_dir", None) or writer.logdir)
    if "://" in folder:
        return f"The report is not stored, because {folder} is not a local folder."
    path = Path(folder, report.file_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, report.page)
    return f"The report is in `{path}`."
