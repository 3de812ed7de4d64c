"""Records among the notes come back as they were written, under the kinds that files have."""

from __future__ import annotations

import json

import pytest

from gradprobe.recording.contents import Batch
from gradprobe.recording.notes import (
    REVISES,
    BlockAt,
    Compilation,
    Detection,
    NoteKind,
    SourceLocation,
    StartedProcess,
    TracedModeChange,
    read_compilations,
    read_detections,
    read_started_processes,
)
from gradprobe.recording.sqlite_file import Store

AT = SourceLocation("used here", "a.py", 3, "main")
DETECTION = Detection("GP401", [AT], [BlockAt("entered here", 140_000, 5)], {"error": "it failed"})
COMPILATION = Compilation(AT, None, "grad", 3, (TracedModeChange("no_grad", False, "a.py", 4),), ("a guard failed",))
PROCESS = StartedProcess(7, False, True, "a.py", 3, "main")


def test_the_stored_kinds() -> None:
    stored = ["level", "full", "fault", "device", "sighting", "compiled", "started"] + [
        "unseen thread",
        "cut off",
        "source",
    ]
    stored += [
        "flow site",
        "flow leaf",
        "flow edge",
        "flow flag",
        "graph path",
        "graph count",
        "memory line",
        "memory sample",
        "module root",
    ]
    assert {kind.value for kind in NoteKind} == set(stored)
    assert [str(kind) for kind in NoteKind] == [kind.value for kind in NoteKind]


def test_records_are_stored_and_read() -> None:
    store = Store(None)
    texts = {
        NoteKind.DETECTION: DETECTION.text(),
        NoteKind.COMPILATION: COMPILATION.text(),
        NoteKind.STARTED_PROCESS: PROCESS.text(),
        NoteKind.FAULT: "an error",
    }
    store.write(Batch(notes=[(kind, text, 2) for kind, text in texts.items()]))
    notes = store.read().notes
    assert [(kind, text) for kind, text, _ in notes] == [(kind.value, text) for kind, text in texts.items()]
    assert [*read_detections(notes)] == [(DETECTION, 2)]
    assert [*read_compilations(notes)] == [(COMPILATION, 2)]
    assert [*read_started_processes(notes)] == [PROCESS]


def test_a_revision_takes_the_place_of_what_was_written_before_it() -> None:
    caught = Detection("GP401", [AT], [], {"caught": True})
    revised = Detection("GP401", [AT], [], {REVISES: True})
    other = Detection("GP402", [AT], [], {"caught": True})
    written = [(NoteKind.DETECTION, one.text(), n) for one, n in ((caught, 3), (other, 2), (revised, 1))]
    assert [*read_detections(written)] == [(other, 2), (Detection("GP401", [AT], [], {}), 3)]
    assert [*read_detections(written[2:])] == [(Detection("GP401", [AT], [], {}), 1)]


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "{}", "1", '["GP401", [["a"]], [], {}]', "[1, 2, 3, 4, 5, 6, 7]"]
)
def test_texts_that_are_not_records_are_skipped(text: str) -> None:
    notes = [(kind.value, text, 1) for kind in NoteKind]
    assert [*read_detections(notes)] == [*read_compilations(notes)] == []


def test_a_number_that_is_none_is_skipped() -> None:
    text = json.dumps([float("inf"), False, True, "a.py", 3, "main"])
    assert [*read_started_processes([(NoteKind.STARTED_PROCESS.value, text, 1)])] == []
