"""Recordings, comparisons and findings as JSON for programs.

``schema`` of the recording's report is incremented when a name or a meaning changes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from gradprobe.analysis.blind_spots import describe_blind_spots
from gradprobe.analysis.comparison_json import build_json
from gradprobe.analysis.comparison_outcome import ComparisonOutcome
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.suppression import SuppressedFinding
from gradprobe.analysis.time_by_mode import sum_by_mode, sum_hidden_ns
from gradprobe.report.formats.rendered import Rendered, RenderOptions
from gradprobe.tables.columns import RECORDING_TABLES
from gradprobe.tables.finding_columns import FINDINGS
from gradprobe.tables.recording_tables import RecordingTables

SCHEMA = 1
MAX_ROWS = 100_000
"""Maximum number of rows of a table, except for those of ``_LIMITS``."""
_LIMITS = {"transitions": 16_000, "regions": 6_000, "ops": 10_000, "flow": 10_000, "graphs": 10_000}
"""Maximum number of rows of the tables that grow with the run or with the program, so that a report has at most 20 MB."""
SUMMED_COLUMNS = (
    "count",
    "nodes",
    "saved_bytes",
    "version_bumps",
    "counters_created",
    "tracked_views",
    "inference_outputs",
)


def render_recording(tables: RecordingTables, options: RenderOptions) -> Rendered:
    """Render a recording as one JSON object; values that were not measured are null."""
    left_out: dict[str, int] = {}
    counts: dict[str, int] = {}

    def list_rows(name: str) -> _DumpedRows:
        limit = options.top or min(_LIMITS.get(name, MAX_ROWS), MAX_ROWS)
        frame, counts[name] = tables.read_rows(name, slice(limit)), tables.count_rows(name)
        if counts[name] > limit:
            left_out[name] = counts[name] - limit
        return _DumpedRows(_dump_rows(_to_json_rows(frame)))

    body = {table.name: list_rows(table.name) for table in RECORDING_TABLES}
    environments = [process.environment for process in tables.processes]
    report = {
        "schema": SCHEMA,
        "environment": environments[0] if len(environments) == 1 else {"processes": environments},
        "summary": {
            "transitions": counts["transitions"],
            "regions": counts["regions"],
            "sites": counts["sites"],
            "complete": tables.is_complete,
            "time_by_mode": [
                {"mode": t.mode, "ns": t.ns, "share": t.share, "nodes": t.nodes} for t in sum_by_mode(tables.processes)
            ],
            "operators": {name: _sum(tables.ops[name]) for name in SUMMED_COLUMNS} if len(tables.ops) else None,
            "hidden_ns": sum_hidden_ns(tables.processes),
            "unseen": describe_blind_spots(tables.processes),
            "rows_left_out": left_out,
        },
        **body,
    }
    return Rendered(_dump(report))


def render_comparison(outcome: ComparisonOutcome, options: RenderOptions) -> Rendered:
    """Render everything that a comparison found, in the form that ``Comparison.load`` reads."""
    return Rendered(_dump(build_json(outcome)))


def render_findings(shown: Sequence[Finding], suppressed: Sequence[SuppressedFinding]) -> str:
    """Render findings without their recording, as ``check`` and ``scan`` write them."""
    findings = [_to_row(finding) for finding in shown]
    others = [_to_row(each.finding) | {"suppressed_by": each.by} for each in suppressed]
    return json.dumps({"findings": findings, "suppressed": others}, indent=1) + "\n"


def _to_row(finding: Finding) -> dict[str, Any]:
    return dict(zip(FINDINGS.names, finding.make_row(), strict=True))


class _DumpedRows(str):
    """Rows of a table as JSON already: as objects they take many times the memory of their text."""


def _dump(plain: dict[str, Any]) -> str:
    """Return an object as JSON, with each row of a table on a line of its own.

    With ``indent`` the encoder of the standard library is the one written in Python, which takes ten times as long.
    """
    # Joined once: the text of a large report is the most of what it takes.
    parts = ["{\n"]
    for key, value in plain.items():
        if isinstance(value, _DumpedRows):
            text: str = value
        elif isinstance(value, list):
            text = _dump_rows(value)
        else:
            text = json.dumps(value, indent=1, allow_nan=False).replace("\n", "\n ")
        parts += [" ", json.dumps(key), ": ", text, ",\n"]
    return "".join([*parts[:-1], "\n}\n"])


def _dump_rows(rows: Sequence[Any]) -> str:
    if not rows:
        return "[]"
    return "[\n" + ",\n".join(f"  {json.dumps(row, allow_nan=False)}" for row in rows) + "\n ]"


def _sum(column: pd.Series[Any]) -> int | None:
    total = column.sum(min_count=1)
    return None if pd.isna(total) else int(total)


def _to_json_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as JSON can hold them, with null for what is missing."""
    # By column, because asking pandas about each cell takes most of the time of a large report.
    columns = [
        [None if is_missing else value for value, is_missing in zip(column.tolist(), column.isna(), strict=True)]
        for _, column in frame.items()
    ]
    names = [str(name) for name in frame.columns]
    return [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]
