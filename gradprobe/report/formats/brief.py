"""Brief report: at most 2,000 bytes, for agents and for people in a hurry.

It has the findings, the most harmful first, each with its line, its cause, the lines that belong to it, the edit and the
evidence. The first finding is always there; those that do not fit are a list of locations, and then a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.blind_spots import describe_blind_spots
from gradprobe.analysis.findings.catalogue import SEVERITIES
from gradprobe.analysis.findings.finding import Finding, describe_count
from gradprobe.report.formats.rendered import Rendered, RenderOptions
from gradprobe.report.sections.findings_section import FindingRow, describe_costs, make_row
from gradprobe.report.units import escape_unprintable, format_location, truncate, truncate_start
from gradprobe.tables.recording_tables import RecordingTables

MAX_BYTES = 2_000
_TAIL_BYTES = 260
"""Bytes kept free for what is only listed while findings are added."""
_MAX_SENTENCE = 420
_MAX_PLACE = 150
_MAX_RELATED = 4


def render_recording(tables: RecordingTables, options: RenderOptions) -> Rendered:
    """Render the findings of a recording, and what it does not show."""
    rows = tables.findings.to_dict("records")
    levels = {str(process.environment.get("level")) for process in tables.processes}
    remarks = (
        [f"recorded at level {', '.join(sorted(levels))}; most rules need --level ops"] if levels - {"ops"} else []
    )
    remarks += [f"not seen: {sentence}" for sentence in describe_blind_spots(tables.processes)]
    return Rendered(_render(rows, describe_costs(rows, tables), remarks))


def render_findings(findings: Sequence[Finding], failures: Sequence[str] = ()) -> str:
    """Render findings in their order, and failures such as exceeded budgets."""
    rows = [make_row(finding) for finding in findings]
    return _render(rows, [""] * len(rows), failures)


def _render(rows: Sequence[FindingRow], costs: Sequence[str], remarks: Sequence[str]) -> str:
    """Return the summary, as many findings as fit, the locations of the others, and as many remarks as fit."""
    shown = _summarize(rows)
    left = MAX_BYTES - _count_bytes(shown) - _TAIL_BYTES
    number = 0
    for row, cost in zip(rows, costs, strict=True):
        item = _describe(row, cost)
        if number and _count_bytes(item) > left:
            break
        item = _cut(item, left)
        shown += item
        left -= _count_bytes(item)
        number += 1
    left += _TAIL_BYTES
    for line in (*_list_rest(rows[number:]), *(f"{escape_unprintable(remark)}\n" for remark in remarks)):
        if _count_bytes(line) <= left:
            shown += line
            left -= _count_bytes(line)
    return shown


def _summarize(rows: Sequence[FindingRow]) -> str:
    counts = Counter(str(row["severity"]) for row in rows)
    parts = [pluralize(counts[severity], severity) for severity in SEVERITIES if counts[severity]]
    return f"gradprobe: {', '.join(parts)}; most harmful first\n" if parts else "gradprobe: nothing found\n"


def _describe(row: FindingRow, cost: str) -> str:
    """Return the lines of one finding."""
    times = describe_count(row["rule"], row["count"])
    evidence = [str(row["evidence"] or ""), cost]
    lines = [
        f"{_locate(row['file'], row['line'])}: {row['severity']} {row['rule']}",
        f"  cause: {_shorten(row['message'])}{times}",
        *_describe_related(row),
        f"  edit: {_shorten(row['fix'] or '')}",
        f"  evidence: {_shorten('; '.join(filter(None, evidence)))}" if any(evidence) else "",
    ]
    return "".join(f"{line}\n" for line in lines if line)


def _describe_related(row: FindingRow) -> Iterable[str]:
    for place in (row["related"] or ())[:_MAX_RELATED]:
        yield f"  {_shorten(place['role'])}: {_locate(place['file'], place['line'])}"


def _list_rest(rows: Sequence[FindingRow]) -> Iterable[str]:
    """Yield a line for the findings that are left out, with as many of their locations as a line takes."""
    if not rows:
        return
    known = list(dict.fromkeys(f"{row['rule']} {_locate(row['file'], row['line'])}" for row in rows))
    line = f"{len(rows)} more: "
    room = _TAIL_BYTES - _count_bytes(line) - len(", ...\n")
    listed: list[str] = []
    for place in known:
        room -= _count_bytes(place) + 2
        if room < 0:
            listed.append("...")
            break
        listed.append(place)
    yield f"{line}{', '.join(listed)}\n"


def _locate(file: Any, line: Any) -> str:
    """Return a location to open from the working directory; the beginning of a very long path is left out."""
    return truncate_start(str(format_location(file, line)), _MAX_PLACE)


def _shorten(text: Any) -> str:
    return truncate(" ".join(escape_unprintable(str(text)).split()), _MAX_SENTENCE)


def _cut(item: str, most: int) -> str:
    """Cut the lines of one finding to a number of bytes."""
    encoded = item.encode()
    return item if len(encoded) <= most else encoded[: most - 4].decode(errors="ignore") + "...\n"


def _count_bytes(text: str) -> int:
    return len(text.encode())
