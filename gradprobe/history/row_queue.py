"""Queue of the events that the interpreter reads one by one, and of the first event of each run of regular blocks.

Marks are not in it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import overload

import numpy as np

from gradprobe.history.edge_pairs import Column
from gradprobe.history.marked_blocks import find_marks
from gradprobe.history.regular_blocks import RegularBlocks, Run
from gradprobe.recording.events import EventBlock
from gradprobe.recording.rows import RawRow

IndexedRow = tuple[int, RawRow]
"""Number of an event, and its row."""

ProgressIterator = Callable[[Sequence[IndexedRow]], Iterable[IndexedRow]]
"""Wrapper that yields the rows it is given and shows how far it is."""

_CHUNK = 20_000


class RowQueue:
    """Queue of the events that are neither marks, nor in a run or in ``skipped``, with the first event of each run."""

    def __init__(self, events: EventBlock, blocks: RegularBlocks | None, skipped: Collection[int]) -> None:
        self.runs: dict[int, Run] = {}
        """Unsplit runs, by the number of their first event."""
        self._events, self._blocks = events, blocks
        self._later: list[IndexedRow] = []
        is_kept = np.ones(len(events), bool)
        is_kept[list(skipped)] = False
        is_kept[find_marks(events)] = False
        if blocks is not None:
            self.runs = {int(blocks.rows[run.first]): run for run in blocks.runs}
            is_kept[blocks.taken_rows] = False
            is_kept[list(self.runs)] = True
        self._kept = _Rows(events, np.flatnonzero(is_kept))

    def read(self, watch: ProgressIterator) -> Iterator[IndexedRow]:
        """Yield the events; those of a run that is split meanwhile come where they belong."""
        for index, row in watch(self._kept):
            while self._later and self._later[0][0] < index:
                yield heapq.heappop(self._later)
            yield index, row
        while self._later:
            yield heapq.heappop(self._later)

    def split(self, run: Run) -> None:
        """Queue the events of the first block of a run one by one, and what follows on it as a run again."""
        blocks = self._blocks
        if blocks is None:
            return
        number = int(np.searchsorted(blocks.enters, run.first))
        is_block = number < len(blocks.enters) and blocks.enters[number] == run.first
        end = int(blocks.exits[number]) if is_block else run.first
        # The first event is being read already.
        for later in _Rows(self._events, blocks.rows[run.first + 1 : end + 1]):
            heapq.heappush(self._later, later)
        if end < run.last:
            rest = Run(end + 1, run.last)
            index = int(blocks.rows[rest.first])
            self.runs[index] = rest
            heapq.heappush(self._later, (index, read_row(self._events, index)))


def read_row(events: EventBlock, index: int) -> RawRow:
    """Return one event."""
    (row,) = events.select([index]).rows()
    return row


class _Rows(Sequence[IndexedRow]):
    """Sequence of chosen events as rows, which are made a few at a time."""

    def __init__(self, events: EventBlock, indices: Column) -> None:
        self._events, self._indices = events, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, at: int) -> IndexedRow: ...
    @overload
    def __getitem__(self, at: slice) -> list[IndexedRow]: ...
    def __getitem__(self, at: int | slice) -> IndexedRow | list[IndexedRow]:
        if isinstance(at, slice):
            indices = self._indices[at]
            return list(zip(indices.tolist(), self._events.select(indices).rows(), strict=True))
        index = int(self._indices[at])
        return index, read_row(self._events, index)

    def __iter__(self) -> Iterator[IndexedRow]:
        for first in range(0, len(self), _CHUNK):
            yield from self[first : first + _CHUNK]
