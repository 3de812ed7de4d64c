"""Difference of two recordings in each format: text, Markdown for a pull request, a page, and JSON for programs."""

from __future__ import annotations

import json
from typing import Any

from gradprobe.analysis.difference.recording_difference import Change, Entry, RecordingDifference
from gradprobe.analysis.findings.finding import Finding
from gradprobe.report.formats import html_page, markdown, terminal
from gradprobe.report.formats.text_style import TextStyle
from gradprobe.report.sections.difference_document import build_document
from gradprobe.report.sections.recording_document import DEFAULT_MAX_ROWS
from gradprobe.tables.finding_columns import FINDINGS

SCHEMA = 1
SUFFIXES = {".txt": "terminal", ".md": "markdown", ".html": "html", ".json": "json"}
"""Formats by the suffix of the file."""
FORMATS = tuple(SUFFIXES.values())


def render_difference(
    found: RecordingDifference,
    names: tuple[str, str],
    format_name: str,
    *,
    top: int | None = None,
    style: TextStyle | None = None,
) -> str:
    """Render the difference between the recordings called ``names`` in one of ``FORMATS``."""
    if format_name == "json":
        return json.dumps(_to_json(found, names), indent=1, allow_nan=False) + "\n"
    style = style or TextStyle()
    is_long = format_name == "html" or (format_name == "terminal" and style.shows_all)
    document = build_document(found, names, top=top or (html_page.PAGE_MAX_ROWS if is_long else DEFAULT_MAX_ROWS))
    if format_name == "terminal":
        return terminal.render_document(document, style)
    return markdown.render_document(document) if format_name == "markdown" else html_page.render_page(document)


def _to_json(found: RecordingDifference, names: tuple[str, str]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "before": {"recording": names[0], "environments": list(found.environments[0])},
        "after": {"recording": names[1], "environments": list(found.environments[1])},
        "summary": {
            "findings": {"new": len(found.new), "gone": len(found.gone), "kept": len(found.kept)},
            "totals": {name: {"before": before, "after": after} for name, (before, after) in found.totals.items()},
            "time_by_mode": [{"mode": mode, "before_ns": a, "after_ns": b} for mode, (a, b) in found.modes.items()],
        },
        "findings": {
            "new": [*map(_finding_to_json, found.new)],
            "gone": [*map(_finding_to_json, found.gone)],
            "kept": [*map(_finding_to_json, found.kept)],
        },
        "sites": [_change_to_json(change) | {"time": _time_to_json(change)} for change in found.sites],
        "lines": [_change_to_json(change) for change in found.lines],
    }


def _finding_to_json(finding: Finding) -> dict[str, Any]:
    return dict(zip(FINDINGS.names, finding.make_row(), strict=True))


def _change_to_json(change: Change) -> dict[str, Any]:
    return {"status": change.status, "before": _entry_to_json(change.before), "after": _entry_to_json(change.after)}


def _entry_to_json(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    place = {"file": entry.file, "line": entry.line, "function": entry.function, "source": entry.text or None}
    managed = {"manager": entry.manager, "form": entry.form} if entry.manager else {}
    return {**place, **managed, **entry.numbers}


def _time_to_json(change: Change) -> dict[str, Any]:
    time = change.time
    return {"verdict": time.verdict, "ratio": time.ratio, "low": time.low, "high": time.high}
