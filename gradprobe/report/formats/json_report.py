"""The recording as JSON, for programs. ``schema`` counts up when a name or a meaning changes."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from gradprobe.analysis.blind_spots import describe_blind_spots
from gradprobe.analysis.comparison_json import build_json
from gradprobe.analysis.comparison_outcome import ComparisonOutcome
from gradprobe.analysis.time_by_mode import sum_by_mode, sum_hidden_ns
from gradprobe.report.formats.rendered import Rendered, RenderOptions
from gradprobe.tables.recording_tables import RecordingTables

SCHEMA = 1
MAX_ROWS = 100_000
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
    """One JSON object with the keys of the contract; what was not measured is null."""
    left_out: dict[str, int] = {}

    def rows(name: str) -> list[dict[str, Any]]:
        frame: pd.DataFrame = getattr(tables, name)
        if len(frame) > MAX_ROWS:
            left_out[name] = len(frame) - MAX_ROWS
        return [{key: _plain(value) for key, value in row.items()} for row in frame.head(MAX_ROWS).to_dict("records")]

    body = {name: rows(name) for name in ("transitions", "regions", "sites", "ops", "births", "calls", "findings")}
    environments = [process.environment for process in tables.processes]
    report = {
        "schema": SCHEMA,
        "environment": environments[0] if len(environments) == 1 else {"processes": environments},
        "summary": {
            "transitions": len(tables.transitions),
            "regions": len(tables.regions),
            "sites": len(tables.sites),
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
    return Rendered(_text(report))


def render_comparison(outcome: ComparisonOutcome, options: RenderOptions) -> Rendered:
    """Everything that a comparison found, to be read back by ``Comparison.load``."""
    return Rendered(_text(build_json(outcome)))


def _text(plain: dict[str, Any]) -> str:
    return json.dumps(plain, indent=1, allow_nan=False) + "\n"


def _sum(column: pd.Series[Any]) -> int | None:
    total = column.sum(min_count=1)
    return None if pd.isna(total) else int(total)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return value
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value
