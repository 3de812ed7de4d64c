"""Constructors of ``set_grad_enabled``: those that begin a block or decorate, and plain calls.

``set_grad_enabled(x)`` acts in its constructor. If the very next event of the thread enters the same object, in the same
statement, the two are one block; if it applies the object to a function, PyTorch reverts the change at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gradprobe.recording.contents import Site
from gradprobe.recording.events import ACTION_MASK, CONSTRUCT, DECORATE, ENTER, EXIT, SET_GRAD_ENABLED
from gradprobe.recording.rows import RawRow


class ConstructedBlock(NamedTuple):
    """Block that began with a constructor: the index of the constructor's row, and the block's site."""

    constructor: int
    site: int


def pair_constructors(rows: Sequence[RawRow], sites: dict[int, Site]) -> tuple[dict[int, ConstructedBlock], set[int]]:
    """Pair the constructors among ``rows`` with the enters that follow them.

    Returns:
        The blocks that began with a constructor, by the index of the row that enters each; and the indices of rows to
        leave out, which are those of the constructors and of decorating.
    """
    blocks: dict[int, ConstructedBlock] = {}
    skipped: set[int] = set()
    constructed: dict[int, int] = {}  # by the key of the object, the index of its constructor
    entered: dict[int, int] = {}  # by the key of the object, the index of the enter of a block in ``blocks``
    last: dict[int, int] = {}  # by thread, the index of its last row
    for index, (op, _, thread, site, _, key, _, _) in enumerate(rows):
        if op & ~ACTION_MASK == SET_GRAD_ENABLED:
            action = op & ACTION_MASK
            constructor = constructed.pop(key, -1)
            is_next = constructor >= 0 and last.get(thread) == constructor
            if action == CONSTRUCT:
                constructed[key] = index
                entered.pop(key, None)
            elif action == ENTER and is_next:
                blocks[index] = ConstructedBlock(constructor, rows[constructor][3])
                skipped.add(constructor)
                entered[key] = index
            elif action == DECORATE and is_next:
                if is_same_statement(sites.get(rows[constructor][3]), sites.get(site)):
                    skipped.update((constructor, index))
            elif action == EXIT and key in entered:
                enter = entered.pop(key)
                constructor = blocks[enter].constructor
                begin = rows[constructor][3]
                if not is_same_statement(sites.get(begin), sites.get(site)):
                    del blocks[enter]
                    skipped.discard(constructor)
                else:
                    blocks[enter] = ConstructedBlock(constructor, choose_block_site(begin, site, sites))
        last[thread] = index
    return blocks, skipped


def choose_block_site(constructed: int, exited: int, sites: dict[int, Site]) -> int:
    """Return which of two sites, of a block's constructor and of its exit, is the ``with`` statement."""
    begin, end = sites.get(constructed), sites.get(exited)
    return exited if begin is not None and end is not None and begin.form == end.form == "with" else constructed


def is_same_statement(constructor: Site | None, other: Site | None) -> bool:
    """Return whether one statement constructs an object and enters, exits or applies it.

    A constructor in another function counts: ``with make_mode():`` calls it from within the statement.
    """
    if constructor is None or other is None or other.form == "indirect" or constructor.form != "with":
        return True
    if (constructor.file, constructor.function) != (other.file, other.function):
        return True
    return (other.line or 0) <= (constructor.line or 0) <= (other.end_line or 0)
