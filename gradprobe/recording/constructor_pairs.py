"""Telling the constructors of ``set_grad_enabled`` that begin a block or decorate a function from plain calls.

``set_grad_enabled(x)`` acts in its constructor. If the very next event of the thread enters the same object, in the same
statement, the two are one block; if it applies the object to a function, PyTorch takes the change back at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradprobe.history.records import RawRow
from gradprobe.recording.events import ACTION_MASK, CONSTRUCT, DECORATE, ENTER, EXIT, SET_GRAD_ENABLED
from gradprobe.recording.sqlite_file import Site


@dataclass(frozen=True)
class ConstructedBlock:
    """A block that began with a constructor: that constructor's row and its index, and the site of the block."""

    constructor: RawRow
    index: int
    site: int


def pair_constructors(rows: Sequence[RawRow], sites: dict[int, Site]) -> tuple[dict[int, ConstructedBlock], set[int]]:
    """Returns, by the index of the row that enters it, the blocks that began so; and the indices of rows to leave out."""
    merged: dict[int, ConstructedBlock] = {}
    skipped: set[int] = set()
    constructed: dict[int, tuple[int, RawRow]] = {}
    entered: dict[int, tuple[int, int, RawRow]] = {}
    last: dict[int, int] = {}
    for index, row in enumerate(rows):
        op, thread, key = row[0], row[2], row[5]
        if op & ~ACTION_MASK == SET_GRAD_ENABLED:
            at, begin = constructed.pop(key, (-1, row))
            is_next = at >= 0 and last.get(thread) == at
            if op & ACTION_MASK == CONSTRUCT:
                constructed[key] = (index, row)
                entered.pop(key, None)
            elif op & ACTION_MASK == ENTER and is_next:
                merged[index] = ConstructedBlock(begin, at, begin[3])
                skipped.add(at)
                entered[key] = (index, at, begin)
            elif op & ACTION_MASK == DECORATE and is_next and is_same_statement(sites.get(begin[3]), sites.get(row[3])):
                skipped.update((at, index))
            elif op & ACTION_MASK == EXIT and key in entered:
                enter, at, begin = entered.pop(key)
                if not is_same_statement(sites.get(begin[3]), sites.get(row[3])):
                    del merged[enter]
                    skipped.discard(at)
                else:
                    merged[enter] = ConstructedBlock(begin, at, choose_block_site(begin[3], row[3], sites))
        last[thread] = index
    return merged, skipped


def choose_block_site(constructed: int, left: int, sites: dict[int, Site]) -> int:
    """The site of a block whose object was constructed at one site and left at another: that of the ``with`` statement."""
    begin, end = sites.get(constructed), sites.get(left)
    return left if begin is not None and end is not None and begin.form == end.form == "with" else constructed


def is_same_statement(constructor: Site | None, other: Site | None) -> bool:
    """Whether one statement constructs an object and enters, leaves or applies it.

    A constructor in another function counts: ``with make_mode():`` calls it from within the statement.
    """
    if constructor is None or other is None or other.form == "indirect" or constructor.form != "with":
        return True
    if (constructor.file, constructor.function) != (other.file, other.function):
        return True
    return (other.line or 0) <= (constructor.line or 0) <= (other.end_line or 0)
