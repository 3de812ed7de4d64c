"""Blocks of runs that marks are in, which the interpreter does not open one by one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gradprobe.history.edge_pairs import Column
from gradprobe.history.regular_blocks import RegularBlocks, Run
from gradprobe.history.regular_runs import find_blocks
from gradprobe.recording.events import ACTION_MASK, PHASE, TALLY, EventBlock


class MarkedBlocks:
    """Blocks of the marks; the marks are added in the order of their events."""

    def __init__(self, events: EventBlock, blocks: RegularBlocks | None) -> None:
        self.found: list[tuple[int, int]] = []
        """Position of each mark within a block among all marks, and the number of that block."""
        self._blocks = blocks
        self._block_of_next: Iterator[int] | None = None
        if blocks is not None:
            self._block_of_next = iter(_find_innermost(events, blocks).tolist())
            self._is_taken = np.zeros(len(blocks.enters), bool)

    def take(self, run: Run) -> None:
        """Note that the blocks of a run were taken at once."""
        if self._blocks is not None:
            first, last = find_blocks(self._blocks, run)
            self._is_taken[first:last] = True

    def add(self, position: int, *, is_of_task: bool) -> None:
        """Take in the next mark. One of an asyncio task is in the blocks of that task, none of which is in a run."""
        block = -1 if self._block_of_next is None else next(self._block_of_next)
        if block >= 0 and not is_of_task and self._is_taken[block]:
            self.found.append((position, block))


def _find_innermost(events: EventBlock, blocks: RegularBlocks) -> Column:
    """Return the number of the innermost visible block that each mark is in, -1 if it is in none."""
    marks = np.flatnonzero((events.op >= TALLY) & (events.op & ~np.uint8(ACTION_MASK) != PHASE))
    # Before each mark comes an event of its thread; what is open after that is open at the mark.
    span = np.int64(len(events))
    place = events.thread[blocks.rows] * span + blocks.rows
    at = np.searchsorted(place, events.thread[marks] * span + marks) - 1
    is_same = (at >= 0) & (events.thread[blocks.rows[at]] == events.thread[marks])
    innermost: Column = np.where(is_same, _list_open(blocks)[at], -1)
    return innermost


def _list_open(blocks: RegularBlocks) -> Column:
    """Return the number of the innermost visible block that is open after each event of the sequence."""
    shown = np.flatnonzero(blocks.visible)
    edge = np.full(len(blocks.rows), -2)
    # What is around a visible block is visible, and what is inside of a hidden one is hidden.
    edge[blocks.exits[shown]] = blocks.parents[shown]
    edge[blocks.enters[shown]] = shown
    latest = np.maximum.accumulate(np.where(edge == -2, 0, np.arange(len(edge))))
    is_open: Column = np.maximum(edge[latest], -1)
    return is_open
