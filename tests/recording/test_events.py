"""Blocks of events keep every bit through packing, and what is no such block is refused."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradprobe.errors import RecordingError
from gradprobe.recording.events import EventBlock, mode_name

signed = st.integers(-(2**63), 2**63 - 1)
row = st.tuples(
    st.integers(0, 255),
    signed,
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 255),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    signed,
)
rows = st.lists(row, max_size=20)


@settings(deadline=None, derandomize=True)
@given(rows)
def test_what_is_packed_comes_back_to_the_bit(events: list[tuple[int, ...]]) -> None:
    block = EventBlock.of(events)
    assert len(block) == len(events)
    assert EventBlock.unpack(block.pack(), len(events)).rows() == block.rows() == events


@settings(deadline=None, derandomize=True)
@given(rows, rows)
def test_joined_blocks_hold_the_events_of_both_and_a_selection_those_asked_for(
    one: list[tuple[int, ...]], two: list[tuple[int, ...]]
) -> None:
    joined = EventBlock.joined([EventBlock.of(one), EventBlock.of(two)])
    assert joined.rows() == one + two
    odd = list(range(1, len(one) + len(two), 2))
    assert joined.select(odd).rows() == (one + two)[1::2]


@settings(deadline=None, derandomize=True)
@given(rows, st.integers(-3, 30))
def test_another_count_than_was_packed_is_refused(events: list[tuple[int, ...]], count: int) -> None:
    if count != len(events):
        with pytest.raises(RecordingError):
            EventBlock.unpack(EventBlock.of(events).pack(), count)


@settings(deadline=None, derandomize=True)
@given(st.binary(max_size=200), st.integers(-1, 10))
def test_bytes_that_are_no_block_are_refused(data: bytes, count: int) -> None:
    with pytest.raises(RecordingError):
        EventBlock.unpack(data, count)


@settings(deadline=None, derandomize=True)
@given(st.lists(row, min_size=1, max_size=20), st.data())
def test_a_block_that_is_cut_short_is_refused(events: list[tuple[int, ...]], data: st.DataObject) -> None:
    packed = EventBlock.of(events).pack()
    cut = data.draw(st.integers(0, len(packed) - 5))
    with pytest.raises(RecordingError):
        EventBlock.unpack(packed[:cut], len(events))


def test_bytes_that_inflate_to_more_than_they_say_are_refused_before_they_do() -> None:
    bomb = zlib.compress(bytes(200_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(RecordingError):
            EventBlock.unpack(bomb, 3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_the_names_of_the_modes() -> None:
    assert [mode_name(g, i) for g, i in ((True, False), (False, False), (False, True), (True, True))] == [
        "grad",
        "no_grad",
        "inference_mode",
        "inference_mode + enable_grad",
    ]
