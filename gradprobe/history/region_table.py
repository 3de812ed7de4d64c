"""Regions of a history as columns, of which single regions are made when they are asked for.

A long recording has millions of regions, of which a report shows a few. Sums over all of them read the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload
from weakref import WeakValueDictionary

import numpy as np

from gradprobe.history.edge_pairs import Column
from gradprobe.history.records import MODES, Region, encode_modes
from gradprobe.recording.events import NOT_COUNTED

_MAX_TIME = 1 << 61
_LOOK_BACK = 10_000


def make_column(values: Iterable[int]) -> Column:
    """Return integers as a column, of Python's own where sums of them might not fit into 64 bits.

    Numbers of a damaged or edited file fit, but not always their sums.
    """
    known = list(values)
    is_small = all(-_MAX_TIME < number < _MAX_TIME for number in (min(known, default=0), max(known, default=0)))
    return np.array(known, dtype=np.int64 if is_small else object)


def _choose_type(length: int) -> type[np.unsignedinteger[Any]]:
    """Return the smallest type of the numbers of so many texts."""
    return np.uint8 if length <= 1 << 8 else np.uint16 if length <= 1 << 16 else np.uint32


class TextColumn:
    """Column of texts as numbers; ``texts`` are the different ones."""

    def __init__(self, numbers: Column, texts: Sequence[Any]) -> None:
        self.numbers, self.texts = numbers, texts

    @classmethod
    def of(cls, values: Iterable[Any]) -> TextColumn:
        """Return the column with these texts."""
        known: dict[Any, int] = {}
        numbers = [known.setdefault(value, len(known)) for value in values]
        return cls(np.array(numbers, _choose_type(len(known))), list(known))

    @classmethod
    def joined(cls, columns: Sequence[TextColumn]) -> TextColumn:
        """Return the texts of several columns, one after the other."""
        known: dict[Any, int] = {}
        parts = []
        for column in columns:
            table = np.array([known.setdefault(text, len(known)) for text in column.texts] or [0], np.int32)
            parts.append(table[column.numbers])
        return cls(np.concatenate(parts).astype(_choose_type(len(known))), list(known))

    def __getitem__(self, index: int) -> Any:
        return self.texts[self.numbers[index]]

    def take(self, order: Column) -> TextColumn:
        """Return the texts at the positions ``order``."""
        return TextColumn(self.numbers[order], self.texts)

    def find(self, is_wanted: Callable[[Any], bool]) -> Column:
        """Return where the text is one that is wanted."""
        table = np.array([is_wanted(text) for text in self.texts] or [False], bool)
        found: Column = table[self.numbers]
        return found


@dataclass
class RegionColumns:
    """Fields of ``Region`` as columns; regions are in the order of their start."""

    manager: TextColumn
    form: TextColumn
    site: Column
    thread: Column
    task: TextColumn
    start_ns: Column
    end_ns: Column
    before: Column
    inside: Column
    parent: Column
    """Number of the region around each region, -1 if there is none."""
    depth: Column
    internal: Column
    start_nodes: Column
    end_nodes: Column
    child_ns: Column
    child_nodes: Column
    error: TextColumn
    is_irregular: Column
    is_reentered: Column
    """True where the object was entered again while the region was open."""
    closed: Column
    phase: TextColumn
    is_shared: Column

    @cached_property
    def duration_ns(self) -> Column:
        """Time from enter to exit."""
        duration: Column = self.end_ns - self.start_ns
        return duration

    @cached_property
    def self_ns(self) -> Column:
        """Time outside of the regions inside."""
        own: Column = np.maximum(self.duration_ns - self.child_ns, 0)
        return own

    @cached_property
    def counts_nodes(self) -> Column:
        """True where the number of nodes is known from the thread's count."""
        counted: Column = (self.start_nodes != NOT_COUNTED) & (self.end_nodes != NOT_COUNTED) & ~self.is_shared
        return counted

    @cached_property
    def nodes(self) -> Column:
        """Number of nodes where ``counts_nodes``."""
        nodes: Column = self.end_nodes - self.start_nodes
        return nodes


class RegionTable(Sequence[Region]):
    """Regions in the order of their start.

    ``objects`` are those that exist already, by number. A region that is made on request is the same object as long as it
    is in use.
    """

    def __init__(self, columns: RegionColumns, objects: dict[int, Region]) -> None:
        self.columns = columns
        self._objects = objects
        self._made: WeakValueDictionary[int, Region] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self.columns.site)

    @overload
    def __getitem__(self, number: int) -> Region: ...
    @overload
    def __getitem__(self, number: slice) -> list[Region]: ...
    def __getitem__(self, number: int | slice) -> Region | list[Region]:
        if isinstance(number, slice):
            return [self[index] for index in range(len(self))[number]]
        return self._get(range(len(self))[number])

    def __iter__(self) -> Iterator[Region]:
        return self.at(range(len(self)))

    def at(self, numbers: Iterable[int]) -> Iterator[Region]:
        """Yield the regions with these numbers."""
        latest = None  # keeps the regions around it, which the next one is likely to be in
        for number in numbers:
            latest = self._get(int(number))
            yield latest

    def where(self, chosen: Column) -> Iterator[Region]:
        """Yield the regions for which a column is true."""
        return self.at(np.flatnonzero(chosen))

    def find_innermost(
        self, threads: Collection[int], time_ns: int, chosen: Callable[[RegionColumns], Column] | None = None
    ) -> Region | None:
        """Return the last region that some threads began and that was open at a moment, among the chosen ones."""
        columns = self.columns
        begun = int(np.searchsorted(columns.start_ns, time_ns, side="right"))
        # From the latest on: what was open is among the last ones that had begun, nearly always.
        for last in range(begun, 0, -_LOOK_BACK):
            span = slice(max(last - _LOOK_BACK, 0), last)
            is_open = (columns.end_ns[span] >= time_ns) & np.isin(columns.thread[span], list(threads))
            if chosen is not None:
                is_open &= chosen(columns)[span]
            found = np.flatnonzero(is_open)
            if len(found):
                return self[span.start + int(found[-1])]
        return None

    def _get(self, number: int) -> Region:
        known = self._objects.get(number) or self._made.get(number)
        if known is not None:
            return known
        missing = [number]
        around: Region | None = None
        while (parent := int(self.columns.parent[missing[-1]])) >= 0:
            around = self._objects.get(parent) or self._made.get(parent)
            if around is not None:
                break
            missing.append(parent)
        made = self._make(missing.pop(), around)
        while missing:
            made = self._make(missing.pop(), made)
        return made

    def _make(self, number: int, parent: Region | None) -> Region:
        columns = self.columns
        made = Region(
            number=number,
            manager=columns.manager[number],
            form=columns.form[number],
            site=int(columns.site[number]),
            thread=int(columns.thread[number]),
            task=columns.task[number],
            start_ns=int(columns.start_ns[number]),
            before=MODES[columns.before[number]],
            inside=MODES[columns.inside[number]],
            parent=parent,
            depth=int(columns.depth[number]),
            internal=bool(columns.internal[number]),
            end_ns=int(columns.end_ns[number]),
            start_nodes=int(columns.start_nodes[number]),
            end_nodes=int(columns.end_nodes[number]),
            child_ns=int(columns.child_ns[number]),
            child_nodes=int(columns.child_nodes[number]),
            error=columns.error[number],
            closed=bool(columns.closed[number]),
            phase=columns.phase[number],
        )
        self._made[number] = made
        return made


def add_up(values: Column) -> int:
    """Return the exact sum of a column, which may have more than 64 bits."""
    if values.dtype == object:
        return int(values.sum())
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())


def list_columns(regions: Sequence[Region]) -> RegionColumns:
    """Return the columns of finished regions, whose numbers are known."""
    return RegionColumns(
        manager=TextColumn.of(region.manager for region in regions),
        form=TextColumn.of(region.form for region in regions),
        site=make_column(region.site for region in regions),
        thread=make_column(region.thread for region in regions),
        task=TextColumn.of(region.task for region in regions),
        start_ns=make_column(region.start_ns for region in regions),
        end_ns=make_column(region.end_ns or region.start_ns for region in regions),
        before=np.array([encode_modes(region.before) for region in regions], np.uint8),
        inside=np.array([encode_modes(region.inside) for region in regions], np.uint8),
        parent=make_column(-1 if region.parent is None else region.parent.number for region in regions),
        depth=make_column(region.depth for region in regions),
        internal=np.array([region.internal for region in regions], bool),
        start_nodes=make_column(region.start_nodes for region in regions),
        end_nodes=make_column(region.end_nodes for region in regions),
        child_ns=make_column(region.child_ns for region in regions),
        child_nodes=make_column(region.child_nodes for region in regions),
        error=TextColumn.of(region.error for region in regions),
        is_irregular=np.array([bool(region.irregular) for region in regions], bool),
        is_reentered=np.array([bool(region.reentrant_regions) for region in regions], bool),
        closed=np.array([region.closed for region in regions], bool),
        phase=TextColumn.of(region.phase for region in regions),
        is_shared=np.array([region.is_shared for region in regions], bool),
    )
