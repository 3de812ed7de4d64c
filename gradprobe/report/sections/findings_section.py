"""Section on the findings of a recording, with the source lines around each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradprobe.analysis.findings.finding import Finding
from gradprobe.report.document import Excerpt, FindingItem, Section
from gradprobe.report.units import escape_unprintable, format_location, pluralize
from gradprobe.tables.columns import FINDINGS
from gradprobe.tables.recording_tables import RecordingTables

_CONTEXT_LINES = 3
_LINE_WIDTH = 200
_MAX_FILE_BYTES = 4 << 20


def build_section(tables: RecordingTables, top: int) -> Section | None:
    """Build the section, worst findings first as in the table; None without findings."""
    found = tables.findings
    if found.empty:
        return None
    items = [build_item(finding) for finding in found.head(top).to_dict("records")]
    left_out = [f"{pluralize(len(found) - top, 'more finding')} left out."] if len(found) > top else []
    return Section("Findings", left_out, items=items)


def build_finding_item(finding: Finding, *, has_source: bool = True) -> FindingItem:
    """Build the item of a finding; without its source lines if the file may be another one by now."""
    return build_item(dict(zip(FINDINGS.names, finding.make_row(), strict=True)), has_source=has_source)


def build_item(finding: Mapping[Any, Any], *, has_source: bool = True) -> FindingItem:
    """Build the item of a row of the table of findings."""
    times = f" ({finding['count']:,} times)" if finding["count"] > 1 else ""
    related = [
        (escape_unprintable(str(p["role"])), format_location(p["file"], p["line"])) for p in finding["related"] or ()
    ]
    return FindingItem(
        escape_unprintable(str(finding["rule"])),
        str(finding["severity"]),
        escape_unprintable(finding["message"]) + times,
        format_location(finding["file"], finding["line"]),
        escape_unprintable(finding["fix"] or ""),
        read_excerpt(finding["file"], finding["line"]) if has_source else None,
        related,
    )


def read_excerpt(file: Any, line: Any) -> Excerpt | None:
    """Read the lines around ``line`` of ``file``; return None if they cannot be read.

    A recording may come from anyone and a report may go to anyone: only Python source is read.
    """
    if not isinstance(file, str) or line != line or line is None:
        return None
    path, wanted = Path(file), int(line)
    try:
        if path.suffix != ".py" or not path.is_file() or path.stat().st_size > _MAX_FILE_BYTES:
            return None
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError):
        return None
    if not 1 <= wanted <= len(lines):
        return None
    first = max(wanted - _CONTEXT_LINES, 1)
    shown = [escape_unprintable(text.expandtabs())[:_LINE_WIDTH] for text in lines[first - 1 : wanted + _CONTEXT_LINES]]
    return Excerpt(first, shown, wanted)
