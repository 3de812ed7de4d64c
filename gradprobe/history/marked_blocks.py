"""Blocks of runs that marks are in, which the interpreter does not open one by one."""

from __future__ import annotations

import numpy as np

from gradprobe.history.edge_pairs import Column
from gradprobe.history.regular_blocks import RegularBlocks, Run
from gradprobe.history.regular_runs import find_blocks
from gradprobe.recording.events import ACTION_MASK, PHASE, TALLY, EventBlock


class MarkedBlocks:
    """Blocks of the marks, as far as they were taken in runs."""

    def __init__(self, events: EventBlock, blocks: RegularBlocks | None) -> None:
        self._events, self._blocks = events, blocks
        self._is_taken = np.zeros(0 if blocks is None else len(blocks.enters), bool)

    def take(self, run: Run) -> None:
        """Note that the blocks of a run were taken at once."""
        if self._blocks is not None:
            first, last = find_blocks(self._blocks, run)
            self._is_taken[first:last] = True

    def find(self, is_of_task: Column) -> Column | None:
        """Return the number of the block that each mark is in, -1 if none was taken; None if there are no blocks.

        A mark of an asyncio task is in the blocks of that task, none of which is in a run.
        """
        if self._blocks is None or not len(self._blocks.enters):
            return None
        within = _find_innermost(self._events, self._blocks)
        return np.where((within >= 0) & ~is_of_task & self._is_taken[within], within, -1)


def find_marks(events: EventBlock) -> Column:
    """Return the rows of the marks: events that change neither a mode nor a phase."""
    return np.flatnonzero((events.op >= TALLY) & (events.op & ~np.uint8(ACTION_MASK) != PHASE))


def _find_innermost(events: EventBlock, blocks: RegularBlocks) -> Column:
    """Return the number of the innermost visible block that each mark is in, -1 if it is in none."""
    marks = find_marks(events)
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
