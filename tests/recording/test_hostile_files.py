"""Hostile and damaged files: a clear error or an answer, never another exception, never code run.

``python -m tests.recording.test_hostile_files FOLDER [OPTIONS OF LIBFUZZER ...]`` is a target for a fuzzer: atheris, if it
is installed, makes up edits of recordings, and the bytes of all that is read, until it is stopped or finds something.
"""

from __future__ import annotations

import contextlib
import inspect
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
from gradprobe.analysis.analyzed_tables import AnalyzedTables
from gradprobe.comparison.comparison_result import Comparison
from gradprobe.errors import GradprobeError, RecordingError
from gradprobe.pytest_plugin import baselines
from gradprobe.recording.sqlite_file import read_file
from gradprobe.report.formats.registry import RECORDING_FORMATS
from gradprobe.report.formats.rendered import RenderOptions
from tests.thoroughness import IS_THOROUGH

QUIET = settings(
    max_examples=120 if IS_THOROUGH else 8,  # each is shown in every format
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
    """Read a recording and show it in every format."""
    found = []
    with refused_in_one_line():
        found.append(read_file(path))
    for contents in found:
        for one in RECORDING_FORMATS:
            with refused_in_one_line():
                one.render(AnalyzedTables([contents], include_torch=None), RenderOptions())


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
    """Read the report of a comparison and show it."""
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


DEEP = "[" * 100_000 + "]" * 100_000
LONG = "1" + "0" * 400
ENDLESS = (
    "WITH RECURSIVE g(v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM g) SELECT 'a' AS kind, 'b' AS text, v AS count FROM g"
)


@pytest.mark.parametrize(
    "statements",
    [
        [f"UPDATE meta SET value = '{DEEP}'"],
        [f"UPDATE folds SET durations = '{DEEP}'"],
        [f"UPDATE op_folds SET sums = '{DEEP}'"],
        [f"UPDATE folds SET durations = '{{\"1\": {LONG}}}'"],
        [f"UPDATE folds SET durations = '{{\"{LONG}\": 1}}'"],
        ["UPDATE folds SET durations = '{\"10000\": 1}'"],
        ["UPDATE folds SET durations = '{\"1\": Infinity}'"],
        [f"UPDATE op_folds SET sums = replace(sums, '1', '{LONG}')"],
        ["UPDATE meta SET value = '{\"process\": [1]}' WHERE key = 'environment'"],
        ["UPDATE meta SET value = '{\"parent\": {}}' WHERE key = 'environment'"],
        [f"UPDATE meta SET value = '{{\"rank\": {LONG}}}' WHERE key = 'environment'"],
        ["DROP TABLE notes", "CREATE TABLE notes (kind, text, count AS (1))"],
        ["DROP TABLE notes", "CREATE VIRTUAL TABLE notes USING fts4(kind, text, count)"],
        # Reading these would not come to an end, and nothing interrupts SQLite.
        ["DROP TABLE notes", f"CREATE VIEW notes AS {ENDLESS}"],
        ["DROP TABLE notes", f"CREATE VIEW notes AS SELECT kind, text, count, 1 AS rowid FROM ({ENDLESS})"],
    ],
)
def test_what_is_too_deep_too_long_of_the_wrong_kind_or_computed_in_a_recording_is_refused_in_one_line(
    recorded: Path, tmp_path: Path, statements: list[str]
) -> None:
    path = tmp_path / "r.gradprobe"
    path.write_bytes(recorded.read_bytes())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
    with pytest.raises(RecordingError, match="damaged") as refused:
        read_file(path)
    assert "\n" not in str(refused.value)


def test_a_refusal_carries_nothing_of_the_file_that_commands_a_terminal(recorded: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.gradprobe"
    path.write_bytes(recorded.read_bytes())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO meta VALUES (?, '{}')", ("\x1b[2J\r\n\u202e",))
    with pytest.raises(RecordingError) as refused:
        read_file(path)
    assert str(refused.value).isprintable()


def test_a_recording_of_which_any_page_is_missing_zeros_or_another_is_shown_or_refused_in_one_line(
    recorded: Path, tmp_path: Path
) -> None:
    whole, path = recorded.read_bytes(), tmp_path / "r.gradprobe"
    size = int.from_bytes(whole[16:18], "big")
    for number, start in enumerate(range(0, len(whole), size)):
        page, following = whole[start : start + size], whole[start + size :]
        damaged = [whole[:start] + instead + following for instead in (b"", bytes(len(page)), whole[-size:])]
        damaged.append(whole[:start])
        for one in damaged if IS_THOROUGH else [damaged[number % 4]]:
            path.write_bytes(one)
            everything_of(path)


@QUIET
@given(data=st.data())
def test_a_recording_with_any_bytes_of_its_events_changed_is_shown_or_refused_in_one_line(
    recorded: Path, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("events") / "r.gradprobe"
    path.write_bytes(recorded.read_bytes())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        table = data.draw(st.sampled_from(["blocks", "accounts"]))
        numbers = [number for (number,) in connection.execute(f"SELECT id FROM {table}")]
        number = data.draw(st.sampled_from(numbers))
        (packed,) = connection.execute(f"SELECT data FROM {table} WHERE id = ?", (number,)).fetchone()
        with_changes = changed(packed, data)
        connection.execute(f"UPDATE {table} SET data = ? WHERE id = ?", (with_changes, number))
    everything_of(path)


def changed(packed: bytes, data: st.DataObject) -> bytes:
    """``packed`` with some of its words replaced: they are little-endian numbers of eight bytes at most."""
    found = bytearray(packed)
    for _ in range(data.draw(st.integers(1, 4))):
        word = data.draw(st.sampled_from([b"\xff" * 8, b"\xff" * 7 + b"\x7f", bytes(8), b"\1"]) | st.binary(max_size=8))
        place = data.draw(st.integers(0, max(0, len(found) - len(word)))) // 8 * 8
        found[place : place + len(word)] = word
    return bytes(found)


TRACE = {
    "traceEvents": [{"ph": "X", "name": "a", "pid": 1, "tid": 1, "ts": 1.5, "dur": 2.5}],
    "baseTimeNanoseconds": 0,
}


@QUIET
@given(data=st.data())
def test_an_edited_trace_of_the_profiler_is_merged_or_refused_in_one_line(
    recorded: Path, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("trace") / "t.json"
    began = read_file(recorded).meta["began_wall_ns"]
    sound = {**TRACE, "baseTimeNanoseconds": began, "otherData": {"a": 1}}
    path.write_text(json.dumps(mutated(sound, data)), encoding="utf-8")
    merge_trace(recorded, path)


@pytest.mark.parametrize(
    "edited",
    [
        '"ts": 1.5, "dur": "long"',
        '"ts": 1.5, "dur": null',
        '"ts": 1e999, "dur": 1',
        f'"ts": {LONG}, "dur": 1',
        f'"ts": 1, "dur": {LONG}',
        '"ts": 0, "dur": 1, "args": {"a": NaN}',
        '"ts": 0, "dur": 1, "args": {"a": 1e999}',
        f'"ts": 0, "dur": 1, "args": {DEEP}',
    ],
)
def test_a_trace_of_what_is_no_time_or_no_json_is_refused_in_one_line(
    recorded: Path, tmp_path: Path, edited: str
) -> None:
    began = read_file(recorded).meta["began_wall_ns"]
    path = tmp_path / "t.json"
    path.write_text(f'{{"baseTimeNanoseconds": {began}, "traceEvents": [{{"ph": "X", {edited}}}]}}', encoding="utf-8")
    with pytest.raises(GradprobeError) as refused:
        gradprobe.load(recorded).to_trace(tmp_path / "o.trace.json", merge=path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "o.trace.json").exists()


def merge_trace(recorded: Path, path: Path) -> None:
    with refused_in_one_line():
        gradprobe.load(recorded).to_trace(path.with_name("o.trace.json"), merge=path, force=True)
        json.loads(path.with_name("o.trace.json").read_text(encoding="utf-8"))


def merge_recordings(recorded: Path, path: Path) -> None:
    """Shows two recordings as one, in every format."""
    with refused_in_one_line():
        both = gradprobe.merge([recorded, path])
        for one in RECORDING_FORMATS:
            one.render(both._tables, RenderOptions())


@pytest.mark.parametrize("kept", ["the newest", "the oldest"])
def test_recordings_of_different_schemas_are_merged(recorded: Path, tmp_path: Path, kept: str) -> None:
    older = tmp_path / "older.gradprobe"
    older.write_bytes(recorded.read_bytes())
    with contextlib.closing(sqlite3.connect(older, isolation_level=None)) as connection:
        for table in ("operations", "accounts", "op_folds"):
            connection.execute(f"DROP TABLE {table}")
        for column in ("hidden_ns", "hidden_nodes"):
            connection.execute(f"ALTER TABLE folds DROP COLUMN {column}")
        connection.execute("UPDATE meta SET value = value + 1000 WHERE key = 'began_wall_ns'")
        connection.execute("PRAGMA user_version = 1")
    paths = [recorded, older] if kept == "the newest" else [older, recorded]
    alone, both = (gradprobe.load(path) for path in paths), gradprobe.merge(paths)
    assert len(both.transitions) == sum(len(one.transitions) for one in alone)
    assert both.sites["count"].sum() == 2 * gradprobe.load(recorded).sites["count"].sum()
    merge_recordings(recorded, older)


def fuzz(folder: Path) -> None:
    """Run atheris on the bytes of all that is read, and on the cells and events of a sound recording."""
    import atheris

    weight = torch.ones(3, requires_grad=True)
    sound = folder / "sound.gradprobe"
    with gradprobe.record(sound, level="ops", limit=20, force=True):
        for _ in range(20):
            with torch.no_grad():
                weight * 2
        with torch.inference_mode():
            weight * 3
        (weight * 2).sum().backward()
    path, whole, known = folder / "fuzzed.gradprobe", sound.read_bytes(), [one for one in tables_of(sound) if one[2]]

    def cells(given: Any) -> None:
        path.write_bytes(whole)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            while given.remaining_bytes() > 4:
                name, columns, count = given.PickValueInList(known)
                column, row = given.PickValueInList(columns), given.ConsumeIntInRange(1, count)
                value = [
                    lambda: given.ConsumeIntInRange(-(2**63), 2**63 - 1),
                    lambda: given.ConsumeIntInRange(-3, 99),
                    lambda: given.ConsumeUnicodeNoSurrogates(12),
                    lambda: given.ConsumeBytes(12),
                    lambda: given.ConsumeFloat(),
                    lambda: None,
                ][given.ConsumeIntInRange(0, 5)]()
                with contextlib.suppress(sqlite3.Error):
                    connection.execute(f"UPDATE OR IGNORE {name} SET {column} = ? WHERE rowid = ?", (value, row))
        everything_of(path)
        merge_recordings(sound, path)

    def events(given: Any) -> None:
        path.write_bytes(whole)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            table = given.PickValueInList(["blocks", "accounts"])
            for number, packed in connection.execute(f"SELECT id, data FROM {table}").fetchall():
                found = bytearray(packed)
                while given.remaining_bytes() > 4 and given.ConsumeBool():
                    place = given.ConsumeIntInRange(0, len(found) - 1)
                    word = given.ConsumeBytes(8)
                    found[place : place + len(word)] = word
                connection.execute(f"UPDATE {table} SET data = ? WHERE id = ?", (bytes(found[: len(packed)]), number))
        everything_of(path)

    def pages(given: Any) -> None:
        found = bytearray(whole)
        while given.remaining_bytes() > 4:
            place = given.ConsumeIntInRange(16, len(found) - 1)
            word = given.ConsumeBytes(8)
            found[place : place + len(word)] = word
        path.write_bytes(found)
        everything_of(path)

    def texts(given: Any) -> None:
        path.write_bytes(given.ConsumeBytes(given.remaining_bytes()))
        everything_of(path)
        show_comparison(path)
        merge_trace(sound, path)
        with refused_in_one_line(pytest.UsageError):
            baselines._read(path)

    # Only gradprobe's code shows the fuzzer where it is: instrumenting all imports takes longer than it helps.
    for name, module in list(sys.modules.items()):
        for function in vars(module).values() if name.startswith("gradprobe.") else ():
            if inspect.isfunction(function) and function.__module__ == name:
                atheris.instrument_func(function)
    kinds = [cells, events, pages, texts]
    atheris.Setup(
        [sys.argv[0], *sys.argv[2:]],
        lambda data: kinds[data[0] % 4 if data else 3](atheris.FuzzedDataProvider(data[1:])),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    fuzz(Path(sys.argv[1]))
