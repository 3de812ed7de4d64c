"""A recording's file gives back what was written, and a file that is none is refused in one line."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradprobe.errors import GradprobeError, RecordingError
from gradprobe.recording.contents import Batch, Contents, Fold, Site, Thread
from gradprobe.recording.events import ENTER, NO_GRAD, EventBlock
from gradprobe.recording.schema import SCHEMA_VERSION
from gradprobe.recording.sqlite_file import Store, read_file, write_file
from tests.thoroughness import examples

ROW = (NO_GRAD | ENTER, 123_456_789, 1, 1, 0b10000001, 2**64 - 1, 0, -1)
CONTENTS = Contents(
    meta={"began_ns": 5, "environment": {"process": 7, "program": "train.py"}, "include_torch": False},
    blocks=[EventBlock.of([ROW] * n) for n in (1, 500, 0)],
    sites={
        1: Site(1, "train.py", 3, 4, "Model.forward", "with", False),
        2: Site(2, None, None, None, None, "indirect", True),
    },
    names={1: "ValueError", 2: "Task-1"},
    threads={1: Thread(1, "MainThread", 140_000_000_000_000, 5, True)},
    folds=[Fold(NO_GRAD, 1, 1, 1, "KeyError", 3, 30, 20, 2, 1, 5, 1, Counter({17: 2, 18: 1}))],
    notes=[("level", "nothing", 2)],
)


def rows(contents: Contents) -> list[tuple[int, ...]]:
    return [row for block in contents.blocks for row in block.rows()]


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "r.gradprobe"
    write_file(path, CONTENTS)
    return path


def refusal(path: Path) -> str:
    """Return the one line by which a file is refused."""
    with pytest.raises(RecordingError) as refused:
        read_file(path)
    text = str(refused.value)
    assert text.startswith(f"cannot read {path}: ")
    assert "\n" not in text
    return text


def test_what_is_written_is_read(recorded: Path) -> None:
    read = read_file(recorded)
    assert rows(read) == rows(CONTENTS)
    for name in ("meta", "sites", "names", "threads", "folds", "notes"):
        assert getattr(read, name) == getattr(CONTENTS, name), name


def test_a_recording_in_memory_holds_the_same_and_grows() -> None:
    store = Store(None)
    store.write(Batch(notes=[("fault", "twice", 1)], meta={"limit": 1}, folds=CONTENTS.folds))
    store.write(Batch(notes=[("fault", "twice", 2)], meta={"limit": 2}, folds=CONTENTS.folds, blocks=CONTENTS.blocks))
    read = store.read()
    assert read.notes == [("fault", "twice", 3)]
    assert read.meta == {"limit": 2}
    assert read.folds == CONTENTS.folds
    assert rows(read) == rows(CONTENTS)


def test_names_that_are_no_unicode_are_written_so_that_they_can_be_read(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9\xff.py")
    path = tmp_path / "r.gradprobe"
    store = Store(path)
    store.write(
        Batch(
            sites=[Site(1, odd, 1, 1, odd, "with", False)],
            names=[(1, "\ud800")],
            threads=[Thread(1, odd, 1, 1, False)],
            folds=[Fold(NO_GRAD, 1, 1, 1, odd, 1, 1, 1, 1, 1, 0, 0, Counter({1: 1}))],
            notes=[("fault", odd, 1)],
            meta={"environment": {"program": odd}},
        )
    )
    store.close()
    read = read_file(path)
    assert read.sites[1].file == read.threads[1].name == read.notes[0][1] == "caf\\udce9\\udcff.py"
    assert read.names[1] == "\\ud800"
    assert read.meta["environment"]["program"] == odd


def test_a_batch_that_fails_leaves_nothing_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "r.gradprobe"
    store = Store(path)
    with pytest.raises(TypeError):
        store.write(Batch(blocks=CONTENTS.blocks, meta={"environment": object()}))
    store.write(Batch(names=[(1, "after")]))
    store.close()
    read = read_file(path)
    assert (read.blocks, read.names) == ([], {1: "after"})


def test_a_file_of_a_newer_schema_says_to_upgrade(recorded: Path) -> None:
    with sqlite3.connect(recorded) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    assert "upgrade gradprobe" in refusal(recorded)


def test_other_programs_sqlite_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.gradprobe"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE meta (key, value)")
    connection.close()
    assert "another program's SQLite file" in refusal(path)


def test_files_that_are_no_database_are_refused(tmp_path: Path) -> None:
    for name, data in {
        "empty": b"",
        "text": b"hello\n",
        "random": os.urandom(5000),
        "header": b"SQLite format 3\0",
    }.items():
        path = tmp_path / name
        path.write_bytes(data)
        refusal(path)


def test_folders_missing_files_and_pipes_are_refused(tmp_path: Path) -> None:
    refusal(tmp_path)
    refusal(tmp_path / "missing" / "r.gradprobe")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refusal(pipe)


def is_refused(path: Path) -> bool:
    """Return whether a file is refused, and properly, instead of read."""
    try:
        read_file(path)
    except RecordingError:
        return bool(refusal(path))
    return False


def test_a_file_cut_short_anywhere_is_refused_or_whole(recorded: Path, tmp_path: Path) -> None:
    data = recorded.read_bytes()
    cut = tmp_path / "cut.gradprobe"
    for length in [*range(0, 200, 7), *range(200, len(data), 997), len(data) - 1]:
        cut.write_bytes(data[:length])
        assert is_refused(cut) or rows(read_file(cut)) == rows(CONTENTS)


@settings(
    max_examples=examples(150),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4)
)
def test_a_file_with_wrong_bytes_is_refused_or_read_but_never_breaks_the_reader(
    recorded: Path, wrong: list[tuple[float, bytes]]
) -> None:
    data = bytearray(recorded.read_bytes())
    for where, change in wrong:
        start = 16 + int(where * (len(data) - 24))
        data[start : start + len(change)] = change
    damaged = recorded.with_name("damaged.gradprobe")
    damaged.write_bytes(data)
    is_refused(damaged)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE blocks SET count = count + 1",
        "UPDATE blocks SET count = 'many'",
        "UPDATE blocks SET count = 1000000000000",
        "UPDATE blocks SET count = -1",
        "UPDATE blocks SET data = 'text'",
        "UPDATE blocks SET data = x'00'",
        "UPDATE blocks SET data = 10000000000",
        "UPDATE meta SET value = '{'",
        "UPDATE meta SET value = '1' || hex(zeroblob(20)) WHERE key = 'began_ns'",
        "UPDATE folds SET durations = '[]'",
        "UPDATE folds SET durations = '{\"x\": 1}'",
        "UPDATE notes SET count = 'often'",
        "DROP TABLE threads",
        "ALTER TABLE sites DROP COLUMN form",
        "ALTER TABLE threads DROP COLUMN inherited",
    ],
)
def test_values_that_make_no_sense_are_refused(statement: str, recorded: Path) -> None:
    with sqlite3.connect(recorded) as connection:
        connection.execute(statement)
    connection.close()
    refusal(recorded)


def test_loading_reads_values_and_runs_none_of_them(recorded: Path) -> None:
    with sqlite3.connect(recorded) as connection:
        hostile = json.dumps({"__class__": "os.system", "program": "$(touch /tmp/x)"})
        connection.execute("UPDATE meta SET value = ? WHERE key = 'environment'", (hostile,))
    connection.close()
    assert read_file(recorded).meta["environment"]["program"] == "$(touch /tmp/x)"


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GradprobeError, match="there is no folder"):
        Store(tmp_path / "missing" / "r.gradprobe")
    with pytest.raises(GradprobeError, match="cannot record to"):
        Store(tmp_path)
