"""Rows: stored events as integers, and the two modes that each row packs into four pairs of bits.

Code that goes through millions of rows takes them as plain tuples and unpacks them by name, which is the fastest; code that
keeps single rows takes ``EventRow``.
"""

from __future__ import annotations

from typing import NamedTuple

from gradprobe.recording.events import NOT_READ

RawRow = tuple[int, int, int, int, int, int, int, int]
"""Fields of ``EventRow`` as a plain tuple, which ``EventBlock.rows`` makes three times as fast."""

Modes = tuple[bool, bool]
"""Grad mode and inference mode."""

INITIAL_MODES: Modes = (True, False)
"""Modes in which a thread starts."""

MODES_NOT_READ = NOT_READ | NOT_READ << 2
"""Both modes, not read."""

BEFORE_MASK, AFTER_SHIFT = 0b1111, 4
"""Position in a state of the modes before and after, for code that runs once per event."""

GENERATOR_EXITS = frozenset({"StopIteration", "StopAsyncIteration", "GeneratorExit"})
"""Exceptions by which generators and coroutines end and are closed. They are not failures."""


class EventRow(NamedTuple):
    """Stored event.

    ``op`` is an operation of ``events.py``; ``thread``, ``site`` and ``extra`` refer to tables of the recording. ``state``
    packs the modes: two bits each for grad and inference before, grad and inference after.
    """

    op: int
    time_ns: int
    thread: int
    site: int
    state: int
    key: int
    extra: int
    nodes: int


def is_failure(error: str) -> bool:
    """Return whether an exception, given by name, is more than the usual end of a generator or coroutine."""
    return bool(error) and error not in GENERATOR_EXITS


def modes_before(row: RawRow, known: Modes) -> Modes:
    """Return the modes before an event, and ``known`` where they were not read."""
    state = row[4]
    return _decode(state, known[0]), _decode(state >> 2, known[1])


def modes_after(row: RawRow, known: Modes) -> Modes:
    """Return the modes after an event, and ``known`` where they were not read."""
    state = row[4]
    return _decode(state >> 4, known[0]), _decode(state >> 6, known[1])


def _decode(bits: int, known: bool) -> bool:
    return known if bits & 3 == NOT_READ else bool(bits & 3)


def bits_before(state: int) -> int:
    """Return the four bits of ``state`` that pack the modes before an event."""
    return state & BEFORE_MASK


def bits_after(state: int) -> int:
    """Return the four bits of ``state`` that pack the modes after an event."""
    return state >> AFTER_SHIFT


def pack_bits(before: int, after: int) -> int:
    """Return the state of an event with the packed modes ``before`` and ``after``."""
    return before | after << AFTER_SHIFT


def are_both_read(bits: int) -> bool:
    """Return whether four bits pack two modes that were both read."""
    return NOT_READ not in (bits & 3, bits >> 2)


def contradict(read: int, known: int) -> bool:
    """Return whether a mode in the packed modes ``read`` differs from the same mode in ``known``."""
    return any(
        NOT_READ not in (read >> bit & 3, known >> bit & 3) and read >> bit & 3 != known >> bit & 3 for bit in (0, 2)
    )


def fill_in(read: int, known: int) -> int:
    """Return the packed modes ``read``, with those of ``known`` in place of modes that were not read."""
    grad, inference = read & 3, read >> 2 & 3
    return (known & 3 if grad == NOT_READ else grad) | (known & 0b1100 if inference == NOT_READ else inference << 2)
