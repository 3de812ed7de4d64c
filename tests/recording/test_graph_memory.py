"""Samples of the memory of graphs are stored and read; what does not parse is left out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradprobe.recording.graph_memory import (
    AT_BACKWARD,
    BETWEEN,
    FURTHER_LINES,
    GraphLine,
    HeldMemory,
    MemoryNotes,
    MemorySample,
    read_memory_samples,
)
from gradprobe.recording.notes import NoteKind

LOSS = GraphLine("train.py", 9, "main", "aten.sum")
SAMPLES = [
    MemorySample(5, 1, AT_BACKWARD, "train", {LOSS: HeldMemory(1, 3, 800), FURTHER_LINES: HeldMemory(2, 2, 16)}),
    MemorySample(9, 1, BETWEEN, "", {}),
]
LINE, SAMPLE = str(NoteKind.MEMORY_LINE), str(NoteKind.MEMORY_SAMPLE)
WHOLE = (LINE, json.dumps([1, *LOSS]), 1)


def test_samples_are_stored_and_read_in_the_order_of_time() -> None:
    notes = list(MemoryNotes().write(SAMPLES))
    assert read_memory_samples(reversed(notes)) == SAMPLES
    assert read_memory_samples([("fault", "no JSON", 1)]) == []


def test_lines_are_written_with_each_batch_that_needs_them() -> None:
    """A recording that began after the first batch can read the second."""
    writer = MemoryNotes()
    first, second = list(writer.write(SAMPLES)), list(writer.write(SAMPLES))
    assert first == second
    assert len(read_memory_samples(first + second)) == len(SAMPLES)


@pytest.mark.parametrize(
    "values",
    [
        None,
        7,
        [],
        [1, 2, AT_BACKWARD, "", [[1, 2, 3]]],
        [1, 2, AT_BACKWARD, "", [[2, 1, 1, 1]]],
        [1, 2, AT_BACKWARD, "", [[1, 1, 1, -1]]],
        [1, 2, AT_BACKWARD, "", [[1, 1, 1, 2**63]]],
        [1, 2, AT_BACKWARD, "", [[1, 1, True, 1]]],
        [1, 2, AT_BACKWARD, "", [[[], 1, 1, 1]]],
        [1, 2, AT_BACKWARD, "", {"a": 1}],
        [1.5, 2, AT_BACKWARD, "", []],
        [1, 2, "later", "", []],
        [1, 2, [], "", []],
    ],
)
def test_malformed_samples_are_left_out(values: Any) -> None:
    assert read_memory_samples([WHOLE, (SAMPLE, json.dumps(values), 1)]) == []


@pytest.mark.parametrize("values", [None, [1, "a.py", -1, "", ""], [-1, *LOSS], [[], *LOSS], [1, *LOSS, 2]])
def test_samples_of_malformed_lines_are_left_out(values: Any) -> None:
    sample = (SAMPLE, json.dumps([1, 2, AT_BACKWARD, "", [[1, 1, 1, 1]]]), 1)
    assert read_memory_samples([(LINE, json.dumps(values), 1), sample]) == []


@given(st.lists(st.tuples(st.sampled_from([LINE, SAMPLE]), st.text() | st.just("[" * 100_000), st.just(1))))
def test_no_text_raises(notes: list[tuple[str, str, int]]) -> None:
    assert read_memory_samples(notes) == []
