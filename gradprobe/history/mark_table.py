"""Marks of a history as columns, of which single marks are made when they are asked for.

At level ``ops`` nearly all events of a long recording are marks: each kind of operator that ran at a line is one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gradprobe.history.edge_pairs import Column
from gradprobe.history.records import EventMark
from gradprobe.history.region_table import RegionTable, TextColumn
from gradprobe.recording.events import EventBlock


class MarkTable:
    """Marks in the order of their events."""

    def __init__(
        self, events: EventBlock, rows: Column, regions: RegionTable, region: Column, phase: TextColumn
    ) -> None:
        self.op, self.key = events.op[rows], events.key[rows]
        self.thread, self.site, self.time_ns = events.thread[rows], events.site[rows], events.time_ns[rows]
        self.region = region
        """Number of the region that each mark is in, -1 if it is in none."""
        self.phase = phase
        self._regions = regions

    def __len__(self) -> int:
        return len(self.op)

    def __iter__(self) -> Iterator[EventMark]:
        return map(self._make, range(len(self)))

    def of(self, op: int) -> Iterator[EventMark]:
        """Yield the marks of one operation."""
        return map(self._make, np.flatnonzero(self.op == op).tolist())

    def has(self, op: int) -> bool:
        """Return whether any mark is of this operation."""
        return bool((self.op == op).any())

    def _make(self, at: int) -> EventMark:
        region = int(self.region[at])
        return EventMark(
            int(self.op[at]),
            int(self.key[at]),
            None if region < 0 else self._regions[region],
            int(self.thread[at]),
            int(self.site[at]),
            int(self.time_ns[at]),
            self.phase[at],
        )
