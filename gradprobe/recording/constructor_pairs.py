"""Constructors of ``set_grad_enabled``: those that begin a block or decorate, and plain calls.

``set_grad_enabled(x)`` acts in its constructor. If the very next event of the thread enters the same object, in the same
statement, the two are one block; if it applies the object to a function, PyTorch reverts the change at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from gradprobe.recording.contents import Site
from gradprobe.recording.events import (
    ACTION_MASK,
    CONSTRUCT,
    DECORATE,
    ENTER,
    EXIT,
    NOWHERE,
    SET_GRAD_ENABLED,
    EventBlock,
)
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
    selected: list[_Step] = []
    last: dict[int, int] = {}  # by thread, the index of its last row
    for index, (op, _, thread, site, _, key, _, _) in enumerate(rows):
        if op & ~ACTION_MASK == SET_GRAD_ENABLED:
            selected.append((index, op & ACTION_MASK, site, key, last.get(thread, -1)))
        last[thread] = index
    return _pair(selected, sites)


def pair_constructors_of(block: EventBlock, sites: dict[int, Site]) -> tuple[dict[int, ConstructedBlock], set[int]]:
    """Pair the constructors of a block of events, as ``pair_constructors`` does, without a pass through its rows."""
    chosen = np.flatnonzero(block.op & ~np.uint8(ACTION_MASK) == SET_GRAD_ENABLED)
    if not len(chosen):
        return {}, set()
    order = np.argsort(block.thread, kind="stable")
    of_thread = block.thread[order]
    previous = np.full(len(block), -1)
    previous[order[1:]] = np.where(of_thread[1:] == of_thread[:-1], order[:-1], -1)
    columns = (block.op[chosen] & ACTION_MASK, block.site[chosen], block.key[chosen], previous[chosen])
    steps = zip(chosen.tolist(), *(column.tolist() for column in columns), strict=True)
    return _pair(steps, sites)


_Step = tuple[int, int, int, int, int]
"""Row of ``set_grad_enabled``: its index, action, site and key, and the index of the thread's row before it."""


def _pair(steps: Iterable[_Step], sites: dict[int, Site]) -> tuple[dict[int, ConstructedBlock], set[int]]:
    blocks: dict[int, ConstructedBlock] = {}
    skipped: set[int] = set()
    constructed: dict[int, tuple[int, int]] = {}  # by the key of the object, the index and the site of its constructor
    entered: dict[int, tuple[int, int]] = {}  # by the key of the object, the index of its enter, and the same site
    for index, action, site, key, previous in steps:
        constructor, begin = constructed.pop(key, (-1, NOWHERE))
        is_next = constructor >= 0 and previous == constructor
        if action == CONSTRUCT:
            constructed[key] = index, site
            entered.pop(key, None)
        elif action == ENTER and is_next:
            blocks[index] = ConstructedBlock(constructor, begin)
            skipped.add(constructor)
            entered[key] = index, begin
        elif action == DECORATE and is_next:
            if is_same_statement(sites.get(begin), sites.get(site)):
                skipped.update((constructor, index))
        elif action == EXIT and key in entered:
            enter, begin = entered.pop(key)
            constructor = blocks[enter].constructor
            if not is_same_statement(sites.get(begin), sites.get(site)):
                del blocks[enter]
                skipped.discard(constructor)
            else:
                blocks[enter] = ConstructedBlock(constructor, choose_block_site(begin, site, sites))
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
