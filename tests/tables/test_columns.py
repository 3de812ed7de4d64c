"""Columns are defined once: DataFrames, page and schemas have these, and levels fill what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

import gradprobe
from gradprobe.analysis.comparison_table import build_comparison_table
from gradprobe.recording.op_rows import RETURNS_FIELDS
from gradprobe.tables import column_reference
from gradprobe.tables.call_columns import CALLS
from gradprobe.tables.column_definition import Table
from gradprobe.tables.column_frames import TEXT_DTYPE
from gradprobe.tables.columns import RECORDING_TABLES
from gradprobe.tables.comparison_columns import COMPARISON
from gradprobe.tables.ledger_columns import FLOW, GRAPHS, PARAMETERS
from gradprobe.tables.operator_columns import OPS
from gradprobe.tables.region_columns import REGIONS, SITES
from tests.report import samples

ROOT = Path(__file__).parents[2]
LEVELS = ["modes", "graph", "ops"]
DEVICE = ["device_ns", "device", "device_lag_ns", "device_allocated_bytes", "device_peak_bytes"]
OTHERWISE_MISSING = {"rank", "task", "error", "compiled", "irregular", *DEVICE}
"""Columns that lack values in a program without ranks, tasks, failures, compiled code and devices."""


def dtypes(table: Table) -> dict[str, object]:
    return {column.name: TEXT_DTYPE if column.dtype == "str" else column.dtype for column in table.columns}


def assert_columns(frame: pd.DataFrame, table: Table) -> None:
    assert list(frame.columns) == table.names
    assert frame.dtypes.to_dict() == dtypes(table), table.name


def program() -> list[torch.Tensor]:
    weight = torch.ones(3, requires_grad=True)
    with torch.no_grad(), torch.enable_grad():
        (weight * 2).sum().backward()
    torch.set_grad_enabled(True)
    with torch.inference_mode():
        kept = torch.ones(4) + 1
    return [kept]


@pytest.mark.parametrize("level", LEVELS)
def test_every_dataframe_has_the_columns_and_dtypes_that_are_defined_whether_it_has_rows_or_not(level: str) -> None:
    with gradprobe.record(level=level) as full:
        kept = program()
    with gradprobe.record(level=level) as empty:
        pass
    with gradprobe.record(level=level, limit=0) as folded:
        kept += program()
    probed = gradprobe.probe(level=level)(program)
    kept += probed()
    for recording in (full, empty, folded, probed.recording):
        for table in RECORDING_TABLES:
            assert_columns(getattr(recording, table.name), table)


def test_the_table_of_a_comparison_has_the_columns_and_dtypes_that_are_defined() -> None:
    assert_columns(build_comparison_table(samples.outcome()), COMPARISON)


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_fills_the_columns_of_its_own_and_of_lower_levels(level: str) -> None:
    with gradprobe.record(level=level) as recording:
        kept = program()
    probed = gradprobe.probe(level=level)(program)
    kept += probed()
    frames = [(REGIONS, recording.regions), (SITES, recording.sites), (CALLS, probed.recording.calls)]
    if level == "ops":
        frames += [(OPS, recording.ops), (FLOW, recording.flow)]
        frames += [(PARAMETERS, recording.parameters), (GRAPHS, recording.graphs)]
    else:
        assert recording.ops.empty
        for name in ("births", "flow", "parameters", "modules", "graphs", "graph_memory", "custody"):
            assert getattr(recording, name).empty
    for table, frame in frames:
        for column in table.columns:
            if column.name in OTHERWISE_MISSING:
                continue
            is_filled = LEVELS.index(level) >= LEVELS.index(column.level)
            assert frame[column.name].notna().any() == is_filled, f"{column.name} of {table.name} at {level}"


def test_the_page_is_what_the_definitions_generate() -> None:
    page = (ROOT / column_reference.PAGE).read_text(encoding="utf-8")
    assert page == column_reference.render_page(), "run: make columns"


@pytest.mark.parametrize("kind", ["recording", "comparison"])
def test_the_schemas_are_what_the_definitions_generate(kind: str) -> None:
    text = (ROOT / column_reference.SCHEMAS / f"{kind}.schema.json").read_text(encoding="utf-8")
    update = getattr(column_reference, f"update_{kind}_schema")
    assert text == column_reference.render_json(update(json.loads(text))), "run: make columns"


def test_the_generator_writes_the_page_and_the_schemas(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / column_reference.SCHEMAS).mkdir(parents=True)
    generated = [
        column_reference.PAGE,
        *(column_reference.SCHEMAS / f"{k}.schema.json" for k in ("recording", "comparison")),
    ]
    for path in generated[1:]:
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    column_reference.main(tmp_path)
    for path in generated:
        assert (tmp_path / path).read_bytes() == (ROOT / path).read_bytes()


def test_what_probed_calls_return_is_stored_in_the_order_of_their_columns() -> None:
    assert CALLS.names[-len(RETURNS_FIELDS) :] == [
        name if name.endswith("_bumps") else f"returned_{name}" for name in RETURNS_FIELDS
    ]


def test_every_column_is_defined_in_full() -> None:
    for table in (*RECORDING_TABLES, COMPARISON):
        assert table.row.endswith("."), table.name
        assert len(set(table.names)) == len(table.columns)
        for column in table.columns:
            assert column.meaning.endswith("."), column.name
            assert (column.unit == "ns") == column.name.endswith("_ns"), column.name
            assert (column.unit == "bytes") == column.name.endswith("bytes"), column.name
