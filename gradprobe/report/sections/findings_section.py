"""Section on the findings of a recording, with the source lines around each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.findings.finding import Finding, describe_count
from gradprobe.analysis.line_costs import NO_COST, LineCost, Place, sum_by_line
from gradprobe.analysis.time_by_mode import sum_thread_ns
from gradprobe.phases import AFTER_BACKWARD
from gradprobe.recording.source_lines import SourceLines
from gradprobe.report.document import Excerpt, FindingItem, Section
from gradprobe.report.units import escape_unprintable, format_bytes, format_location, format_percentage
from gradprobe.tables.finding_columns import FINDINGS
from gradprobe.tables.recording_tables import RecordingTables

FindingRow = Mapping[Any, Any]
"""Row of the table of findings, by the names of its columns."""

_CONTEXT_LINES = 3
_LINE_WIDTH = 200
_MAX_FILE_BYTES = 4 << 20


def build_section(tables: RecordingTables, top: int) -> Section | None:
    """Build the section, the most harmful findings first; None without findings."""
    found = tables.findings
    if found.empty:
        return None
    rows = found.to_dict("records")
    texts = {place: text for process in tables.processes for place, text in process.source_lines.items()}
    costs = describe_costs(rows[:top], tables)
    items = [replace(build_item(row, texts=texts), cost=cost) for row, cost in zip(rows[:top], costs, strict=True)]
    left_out = [f"{pluralize(len(rows) - top, 'more finding')} left out."] if len(rows) > top else []
    return Section("Findings", left_out, items=items)


def describe_costs(findings: Iterable[FindingRow], tables: RecordingTables) -> list[str]:
    """Return for each row what its line costs, as far as it was measured; empty if nothing was."""
    costs, whole_ns = sum_by_line(tables), sum_thread_ns(tables.processes)
    return [_describe_cost(row, costs, whole_ns) for row in findings]


def _find_cost(finding: FindingRow, costs: Mapping[Place, LineCost]) -> LineCost:
    file, line = finding["file"], finding["line"]
    return costs.get((file, int(line)), NO_COST) if isinstance(file, str) and line == line else NO_COST


def _describe_cost(finding: FindingRow, costs: Mapping[Place, LineCost], whole_ns: int) -> str:
    """Say what the line of a finding costs, as far as it was measured; empty if nothing was."""
    cost = _find_cost(finding, costs)
    parts = []
    if cost.kept_nodes:
        parts.append(f"graphs of {pluralize(cost.kept_nodes, 'node')} and {format_bytes(cost.kept_bytes)} kept")
    if cost.nodes:
        parts.append(f"{pluralize(cost.nodes, 'node')} built, {format_bytes(cost.saved_bytes)} saved for backward")
    if cost.block_ns and whole_ns:
        share = format_percentage(cost.block_ns / whole_ns)
        parts.append(f"{pluralize(cost.blocks, 'block')} with {share} of all thread time")
    return "; ".join(parts)


def make_row(finding: Finding) -> FindingRow:
    """Return the row of a finding by the names of its columns."""
    return dict(zip(FINDINGS.names, finding.make_row(), strict=True))


def build_finding_item(finding: Finding, *, has_source: bool = True) -> FindingItem:
    """Build the item of a finding; without its source lines if the file may be another one by now."""
    return build_item(make_row(finding), has_source=has_source)


def build_item(finding: FindingRow, *, has_source: bool = True, texts: SourceLines | None = None) -> FindingItem:
    """Build the item of a row of the table of findings; ``texts`` are the lines as they were recorded."""
    times = describe_count(finding["rule"], finding["count"])
    phase = f" Phase: {finding['phase']}." if finding["phase"] and finding["phase"] != AFTER_BACKWARD else ""
    related = [
        (escape_unprintable(str(p["role"])), format_location(p["file"], p["line"])) for p in finding["related"] or ()
    ]
    return FindingItem(
        escape_unprintable(str(finding["rule"])),
        str(finding["severity"]),
        escape_unprintable(finding["message"]) + times + escape_unprintable(phase),
        format_location(finding["file"], finding["line"]),
        escape_unprintable(finding["fix"] or ""),
        read_excerpt(finding["file"], finding["line"], texts) if has_source else None,
        related,
        escape_unprintable(str(finding.get("evidence") or "")),
    )


def read_excerpt(file: Any, line: Any, texts: SourceLines | None = None) -> Excerpt | None:
    """Read the lines around ``line`` of ``file``; return None if they cannot be read.

    Where the file has changed since it was recorded, or is not here, the recorded line stands alone.
    """
    if not isinstance(file, str) or line != line or line is None:
        return None
    recorded = (texts or {}).get((file, int(line)))
    found = _read_around(Path(file), int(line))
    if recorded is None:
        return found
    is_the_same = found is not None and found.lines[found.marked - found.first].strip().startswith(
        recorded[:_LINE_WIDTH]
    )
    return found if is_the_same else Excerpt(int(line), [escape_unprintable(recorded)], int(line))


def _read_around(path: Path, wanted: int) -> Excerpt | None:
    """Read lines of a file. A recording may come from anyone and a report may go to anyone: only Python source is read."""
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
