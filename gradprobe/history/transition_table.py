"""Transitions of a history as columns, of which single transitions are made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np

from gradprobe.history.edge_pairs import Column
from gradprobe.history.records import MODES, Transition, encode_modes
from gradprobe.history.region_table import RegionTable, TextColumn, make_column


@dataclass
class TransitionColumns:
    """Fields of ``Transition`` as columns, with the number of the region, -1 if there is none."""

    time_ns: Column
    thread: Column
    task: TextColumn
    manager: TextColumn
    form: TextColumn
    event: TextColumn
    before: Column
    after: Column
    depth: Column
    region: Column
    site: Column
    phase: TextColumn


class TransitionTable(Sequence[Transition]):
    """Transitions in the order in which they happened.

    The columns are made when they are first read: no other column of a recording is as long.
    """

    def __init__(
        self,
        length: int,
        regions: RegionTable,
        make_columns: Callable[[], TransitionColumns],
        list_sites: Callable[[], Column],
    ) -> None:
        self._length = length
        self._regions = regions
        self._make_columns = make_columns
        self._list_sites = list_sites

    @cached_property
    def columns(self) -> TransitionColumns:
        """Columns of all transitions."""
        return self._make_columns()

    @cached_property
    def sites(self) -> set[int]:
        """Sites of all transitions, for which no columns are made."""
        return set(np.unique(self._list_sites()).tolist())

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, number: int) -> Transition: ...
    @overload
    def __getitem__(self, number: slice) -> list[Transition]: ...
    def __getitem__(self, number: int | slice) -> Transition | list[Transition]:
        if isinstance(number, slice):
            return list(self.at(range(self._length)[number]))
        return self._make(range(self._length)[number])

    def __iter__(self) -> Iterator[Transition]:
        return self.at(range(self._length))

    def at(self, numbers: Iterable[int]) -> Iterator[Transition]:
        """Yield the transitions with these numbers."""
        return map(self._make, numbers)

    def where(self, chosen: Column) -> Iterator[Transition]:
        """Yield the transitions for which a column is true."""
        return self.at(np.flatnonzero(chosen).tolist())

    def _make(self, number: int) -> Transition:
        columns = self.columns
        region = int(columns.region[number])
        return Transition(
            int(columns.time_ns[number]),
            int(columns.thread[number]),
            columns.task[number],
            columns.manager[number],
            columns.form[number],
            columns.event[number],
            MODES[columns.before[number]],
            MODES[columns.after[number]],
            int(columns.depth[number]),
            None if region < 0 else self._regions[region],
            int(columns.site[number]),
            columns.phase[number],
        )


def list_columns(transitions: Sequence[Transition]) -> TransitionColumns:
    """Return the columns of transitions whose regions have their numbers."""
    return TransitionColumns(
        time_ns=make_column(change.time_ns for change in transitions),
        thread=make_column(change.thread for change in transitions),
        task=TextColumn.of(change.task for change in transitions),
        manager=TextColumn.of(change.manager for change in transitions),
        form=TextColumn.of(change.form for change in transitions),
        event=TextColumn.of(change.event for change in transitions),
        before=np.array([encode_modes(change.before) for change in transitions], np.uint8),
        after=np.array([encode_modes(change.after) for change in transitions], np.uint8),
        depth=make_column(change.depth for change in transitions),
        region=make_column(-1 if change.region is None else change.region.number for change in transitions),
        site=make_column(change.site for change in transitions),
        phase=TextColumn.of(change.phase for change in transitions),
    )
