"""Places of marks: the region and the phase that each is in.

Marks change nothing, so that all between two other events of a history are where the first of these left their thread.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gradprobe.history.edge_pairs import Column
from gradprobe.history.history_tables import HistoryTables
from gradprobe.history.mark_table import MarkTable
from gradprobe.history.marked_blocks import MarkedBlocks, find_marks
from gradprobe.history.phase_timeline import PhaseBuilder
from gradprobe.history.records import Region
from gradprobe.history.region_table import TextColumn
from gradprobe.history.regions import RegionBuilder
from gradprobe.history.regular_blocks import RegularBlocks
from gradprobe.history.row_queue import read_row
from gradprobe.history.thread_timelines import ThreadTimelines
from gradprobe.recording.events import EventBlock

_Place = tuple[Region | None, str]


class MarkPlaces:
    """Places of the marks of ``events``, which are taken in their order."""

    def __init__(
        self,
        events: EventBlock,
        blocks: RegularBlocks | None,
        names: Mapping[int, str],
        regions: RegionBuilder,
        phases: PhaseBuilder,
        timelines: ThreadTimelines,
    ) -> None:
        self.blocks = MarkedBlocks(events, blocks)
        self.next_row = 0
        """Number of the event of the next mark, beyond all events if there is none."""
        self._events, self._regions, self._phases, self._timelines = events, regions, phases, timelines
        self._rows = rows = find_marks(events)
        pairs = events.thread[rows].astype(np.uint64) << np.uint64(32) | events.extra[rows]
        known, self._tasks = np.unique(pairs, return_inverse=True)
        self._known = [(int(pair) >> 32, names.get(int(pair) & 0xFFFFFFFF)) for pair in known]
        self._place_of = np.zeros(len(rows), np.int32)
        self._places: dict[_Place, int] = {}
        self._taken = 0
        self._find_next()

    def take(self, end: int) -> None:
        """Take the marks before the event ``end`` that have not been taken."""
        first, last = self._taken, int(np.searchsorted(self._rows, end))
        tasks = self._tasks[first:last]
        different = list(dict.fromkeys(tasks.tolist()))
        for number in different:
            thread, task = self._known[number]
            if thread not in self._timelines.found:
                self._timelines.get(read_row(self._events, int(self._rows[first + int(np.argmax(tasks == number))])))
            stack = self._regions.stack(thread, task)
            place = stack[-1] if stack else None, self._phases.current(thread, task)
            code = self._places.setdefault(place, len(self._places))
            if len(different) == 1:
                self._place_of[first:last] = code
            else:
                self._place_of[first:last][tasks == number] = code
        self._taken = last
        self._find_next()

    def finish(self, tables: HistoryTables) -> MarkTable:
        """Return the marks, once all are taken and their regions have numbers."""
        numbers = [-1 if region is None else region.number for region, _ in self._places]
        region = np.array(numbers or [-1], np.int32)[self._place_of]
        is_of_task = np.array([task is not None for _, task in self._known] or [False], bool)[self._tasks]
        within = self.blocks.find(is_of_task)
        if within is not None:
            region = np.where(within < 0, region, tables.list_numbers(within))
        phase = TextColumn.of(phase for _, phase in self._places).take(self._place_of)
        return MarkTable(self._events, self._rows, tables.regions, region, phase)

    @property
    def last_ns(self) -> int:
        """Time of the latest mark, 0 if there is none."""
        times: Column = self._events.time_ns[self._rows]
        return int(times.max(initial=0))

    def _find_next(self) -> None:
        self.next_row = int(self._rows[self._taken]) if self._taken < len(self._rows) else len(self._events)
