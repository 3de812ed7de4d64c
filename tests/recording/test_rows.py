"""Rows: the modes that they pack, and the names of their fields."""

from __future__ import annotations

from dataclasses import fields

import pytest

from gradprobe.recording.events import NOT_READ, EventBlock
from gradprobe.recording.rows import (
    INITIAL_MODES,
    MODES_NOT_READ,
    EventRow,
    are_both_read,
    bits_after,
    bits_before,
    contradict,
    fill_in,
    is_failure,
    modes_after,
    modes_before,
    pack_bits,
)

OFF, ON = 0, 1


def bits(grad: int, inference: int) -> int:
    return grad | inference << 2


def row(state: int) -> EventRow:
    return EventRow(4, 0, 1, 1, state, 0, 0, 0)


def test_the_fields_of_a_row_are_the_columns_of_a_block() -> None:
    assert list(EventRow._fields) == [field.name for field in fields(EventBlock) if field.name != "accounts"]


def test_the_modes_of_a_row_are_those_that_were_read_or_else_those_that_are_known() -> None:
    state = pack_bits(bits(ON, NOT_READ), bits(OFF, ON))
    assert (bits_before(state), bits_after(state)) == (bits(ON, NOT_READ), bits(OFF, ON))
    assert modes_before(row(state), (False, True)) == (True, True)
    assert modes_before(row(state), INITIAL_MODES) == (True, False)
    assert modes_after(row(state), INITIAL_MODES) == (False, True)


@pytest.mark.parametrize(
    ("read", "known", "differs", "filled"),
    [
        (bits(ON, OFF), bits(ON, OFF), False, bits(ON, OFF)),
        (bits(ON, OFF), bits(OFF, OFF), True, bits(ON, OFF)),
        (bits(NOT_READ, ON), bits(OFF, ON), False, bits(OFF, ON)),
        (bits(NOT_READ, ON), bits(OFF, OFF), True, bits(OFF, ON)),
        (MODES_NOT_READ, bits(OFF, ON), False, bits(OFF, ON)),
        (bits(ON, ON), MODES_NOT_READ, False, bits(ON, ON)),
    ],
)
def test_modes_that_were_not_read_contradict_nothing_and_are_filled_in(
    read: int, known: int, differs: bool, filled: int
) -> None:
    assert contradict(read, known) is differs
    assert fill_in(read, known) == filled
    assert are_both_read(filled)
    assert not are_both_read(MODES_NOT_READ)


def test_the_usual_ends_of_generators_are_not_failures() -> None:
    assert not is_failure("")
    assert not is_failure("GeneratorExit")
    assert is_failure("ValueError")
