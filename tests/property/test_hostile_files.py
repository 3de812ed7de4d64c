"""Files that were edited, cut, or made by an enemy: a clear error or an answer, never another exception, never code run.

``python -m tests.property.test_hostile_files FOLDER`` is a target for a fuzzer: atheris, if it is installed, makes up the
bytes of recordings and of reports of comparisons without end.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gradprobe
from gradprobe.analysis.findings import rows
from gradprobe.comparison.result import Comparison
from gradprobe.errors import GradprobeError
from gradprobe.recording.store import read_file
from gradprobe.recording.tables import Tables
from gradprobe.report.formats import RECORDING
from gradprobe.report.written import Options
from gradprobe.testing import baselines

QUIET = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
CELLS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-3, 70),
    st.text(max_size=8),
    st.binary(max_size=16),
    st.none(),
    st.floats(allow_nan=True),
    st.sampled_from(["../../etc/passwd", "=1+1", "<script>", "[]", "{}", "null", "\x1b[2J", "__import__('os')"]),
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording with something in every table."""
    path = tmp_path_factory.mktemp("hostile") / "r.gradprobe"
    weight = torch.ones(3, requires_grad=True)
    with gradprobe.record(path, level="ops", limit=20):
        for _ in range(20):
            with torch.no_grad():
                weight * 2
        with torch.inference_mode():
            born = weight * 3
        with contextlib.suppress(RuntimeError):
            (born * weight).sum().backward()
        (weight * 2).sum().backward()
    return path


def tables_of(path: Path) -> list[tuple[str, list[str], int]]:
    with sqlite3.connect(path) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [
            (
                name,
                [row[1] for row in connection.execute(f"PRAGMA table_info({name})")],
                connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0],
            )
            for name in names
        ]


@contextlib.contextmanager
def refused_in_one_line(kind: type[Exception] = GradprobeError) -> Iterator[None]:
    try:
        yield
    except kind as error:
        if "\n" in str(error):
            raise


def everything_of(path: Path) -> None:
    """Reads a recording and shows it in every format."""
    found = []
    with refused_in_one_line():
        found.append(read_file(path))
    for contents in found:
        for one in RECORDING:
            with refused_in_one_line():
                one.render(Tables([contents], include_torch=None, find=rows), Options())


@QUIET
@given(data=st.data())
def test_a_recording_with_any_cells_changed_is_shown_or_refused_in_one_line(
    recorded: Path, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("edited") / "r.gradprobe"
    path.write_bytes(recorded.read_bytes())
    known = [(name, columns) for name, columns, count in tables_of(path) if count]
    with sqlite3.connect(path) as connection:
        for _ in range(data.draw(st.integers(1, 3))):
            name, columns = data.draw(st.sampled_from(known))
            column = data.draw(st.sampled_from(columns))
            which = data.draw(st.sampled_from(["", " WHERE rowid = 1", " WHERE rowid % 2 = 0"]))
            value = data.draw(CELLS)
            try:
                connection.execute(f"UPDATE OR IGNORE {name} SET {column} = ?{which}", (value,))
            except sqlite3.Error:
                continue  # what the schema itself refuses
    connection.close()
    everything_of(path)


@QUIET
@given(data=st.data())
def test_a_recording_with_any_rows_missing_or_doubled_is_shown_or_refused_in_one_line(
    recorded: Path, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("rows") / "r.gradprobe"
    path.write_bytes(recorded.read_bytes())
    known = tables_of(path)
    with sqlite3.connect(path) as connection:
        for name, columns, count in data.draw(st.lists(st.sampled_from(known), max_size=3, unique_by=lambda t: t[0])):
            if data.draw(st.booleans()) and count:
                row = data.draw(st.integers(1, count))
                connection.execute(f"DELETE FROM {name} WHERE rowid = ?", (row,))
            elif "id" in columns:
                others = ", ".join(column for column in columns if column != "id")
                connection.execute(f"INSERT INTO {name} ({others}) SELECT {others} FROM {name} LIMIT 2")
            else:
                connection.execute(f"DROP TABLE IF EXISTS {name}")
    connection.close()
    everything_of(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)


def mutated(document: Any, data: st.DataObject) -> Any:
    """``document`` with one of its values put in another's place."""
    if data.draw(st.integers(0, 3)) == 0 or not isinstance(document, dict | list) or not document:
        return data.draw(JSON)
    key = data.draw(st.sampled_from(sorted(document) if isinstance(document, dict) else range(len(document))))
    copy: Any = dict(document) if isinstance(document, dict) else list(document)
    copy[key] = mutated(document[key], data)
    return copy


REPORT = Path(__file__).parents[2] / "reports" / "models.json"


@QUIET
@given(data=st.data())
def test_an_edited_report_of_a_comparison_is_read_or_refused_in_one_line(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(mutated(json.loads(REPORT.read_text(encoding="utf-8")), data)), encoding="utf-8")
    show_comparison(path)


def show_comparison(path: Path) -> None:
    """Reads the report of a comparison and shows it."""
    with refused_in_one_line():
        read = Comparison.load(path)
        assert isinstance(str(read), str)
        assert isinstance(read.to_markdown(), str)


@QUIET
@given(data=st.data())
def test_an_edited_baseline_is_read_or_refused_in_one_line(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("baseline") / "0001_a.json"
    counts = dict.fromkeys((*baselines.COUNTS, "duration_ns"), 3)
    sound = {"schema": baselines.SCHEMA, "kind": "baseline", "machine": "m", "tests": {"test_a": counts}}
    path.write_text(json.dumps(mutated(sound, data)), encoding="utf-8")
    with refused_in_one_line(pytest.UsageError):
        assert all(isinstance(known, dict) for known in baselines._read(path)["tests"].values())


def fuzz(folder: Path) -> None:
    """Runs atheris on the bytes of a recording and of a report of a comparison."""
    import atheris

    path = folder / "fuzzed"

    def target(data: bytes) -> None:
        path.write_bytes(data)
        everything_of(path)
        show_comparison(path)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    fuzz(Path(sys.argv[1]))
