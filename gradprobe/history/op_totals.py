"""Totals of what operators did, by region, place, operator and module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from gradprobe.history.edge_pairs import Column
from gradprobe.history.op_table import OpColumns, OpName, OpTable
from gradprobe.history.process_history import History
from gradprobe.history.records import EventMark, Region
from gradprobe.history.region_table import RegionTable, add_up, make_column
from gradprobe.history.row_groups import number_groups, sum_groups
from gradprobe.history.tallies import SavedRows, Tallies, find_saved, find_tallies
from gradprobe.recording.contents import Contents
from gradprobe.recording.events import BACKWARD_PASS, ESCAPED_TENSORS, FOLDED_OPERATORS
from gradprobe.recording.module_roots import ModuleNames
from gradprobe.recording.op_rows import NO_COUNTS, PHASES, OpCounts, Operation


class SavedStorage(NamedTuple):
    """Storage saved for backward: its bytes, and when it was allocated, -1 if before the recording."""

    size: int
    made_ns: int


Storages = dict[int, SavedStorage]
"""Saved storages by number."""


@dataclass(slots=True)
class RegionSum:
    """Sum of what ran directly in a region, and of what ran in it at all."""

    own: OpCounts = NO_COUNTS
    total: OpCounts = NO_COUNTS
    own_saved: Storages = field(default_factory=dict)
    saved: Storages = field(default_factory=dict)
    is_complete: bool = True
    """False if some operators that ran in it are missing from these sums."""


class _RegionSums(dict[Region, RegionSum]):
    """Sums of the regions in which anything ran. A long recording has many others, which share one sum of nothing."""

    _NOTHING = RegionSum()

    def __missing__(self, region: Region) -> RegionSum:
        return self._NOTHING

    def open(self, region: Region) -> RegionSum:
        """Return the sum of a region to add to."""
        known = self.get(region)
        if known is None:
            known = self[region] = RegionSum()
        return known


class EscapeKey(NamedTuple):
    """Place where inference tensors were created that escaped inference mode."""

    region: Region | None
    site: int
    op: str
    module: str
    thread: int


@dataclass
class EscapedTensors:
    """Inference tensors that escaped from one place: number, bytes, first phase, and what held them at the end."""

    phase: str = ""
    count: int = 0
    bytes: int = 0
    held: int = 0
    holders: set[str] = field(default_factory=set)


class OpTotals:
    """Totals of one process, tied to the regions of its history."""

    def __init__(self, contents: Contents, history: History, names: ModuleNames) -> None:
        self._contents, self._history = contents, history
        self._operations = {
            number: replace(operation, module=names.show(operation.module))
            for number, operation in contents.operations.items()
        }
        self._origin = int(contents.meta.get("began_ns", 0))
        self.regions = _RegionSums()
        self.escaped: dict[EscapeKey, EscapedTensors] = defaultdict(EscapedTensors)
        self.phases: dict[tuple[int, str], set[str]] = defaultdict(set)
        """Phases in which an operator ran at a site."""
        self.saved_bytes = 0
        """Bytes of every storage that was saved for backward anywhere, each once."""
        self.graph_bytes = 0
        """The part of them that only graphs keep alive."""
        self.ops = self._sum_rows(find_tallies(contents, history))
        for mark in history.marks.of(FOLDED_OPERATORS):
            if mark.region is not None:
                self.regions.open(mark.region).is_complete = False
        self._sum_regions()
        self._add_escaped_tensors()
        self.backward_nodes = self._count_backward_nodes(history)
        """Number of the nodes constructed in each region that a backward pass reached later."""

    def _sum_rows(self, tallies: Tallies) -> OpTable:
        """Sum up the tallies and the folded operators, by row and by region."""
        marks, at, rows = self._history.marks, tallies.marks, tallies.rows
        folds = self._contents.op_folds
        numbers = np.concatenate([rows["operation"], make_column(fold.operation for fold in folds)])
        different, which = np.unique(numbers, return_inverse=True)
        known: dict[OpName, int] = {}
        codes = [known.setdefault(self._name(number), len(known)) for number in different.tolist()]
        saved = find_saved(self._contents, self._history, tallies)
        self._add_storages(saved)
        own = np.zeros((2, len(at)), np.int64)
        np.add.at(own[0], saved.tally, saved.size)
        np.add.at(own[1], saved.tally[saved.is_of_graph], saved.size[saved.is_of_graph])
        region = np.concatenate([marks.region[at], np.full(len(folds), -1, np.int32)])
        site = np.concatenate([marks.site[at], make_column(fold.site for fold in folds)]).astype(np.int64)
        name = np.array(codes or [0], np.int32)[which]
        thread = np.concatenate([marks.thread[at], make_column(fold.thread for fold in folds)]).astype(np.int64)
        names = list(known)
        self._note_phases(at, site, name, names)
        groups, firsts = number_groups(region, site, name, thread)

        def add_up_rows(own: Column, of_folds: Iterable[int]) -> Column:
            return sum_groups(np.concatenate([own, make_column(of_folds)]), groups, len(firsts))

        columns = OpColumns(
            region=region[firsts],
            site=site[firsts],
            name=name[firsts],
            thread=thread[firsts],
            saved_bytes=add_up_rows(own[0], (fold.sums[0] for fold in folds)),
            graph_bytes=add_up_rows(own[1], (0 for _ in folds)),
            counts=tuple(
                add_up_rows(rows[field], (fold.sums[1 + index] for fold in folds))
                for index, field in enumerate(OpCounts._fields)
            ),
        )
        self._sum_own(columns, saved)
        return OpTable(columns, names, self._history.regions)

    def _add_storages(self, saved: SavedRows) -> None:
        _, last = np.unique(saved.storage[::-1], return_index=True)
        self.saved_bytes = add_up(saved.size[::-1][last])
        storages, sizes = saved.storage[saved.is_of_graph], saved.size[saved.is_of_graph]
        _, last = np.unique(storages[::-1], return_index=True)
        self.graph_bytes = add_up(sizes[::-1][last])

    def _note_phases(self, at: Column, sites: Column, name: Column, names: Sequence[OpName]) -> None:
        """Note the phases in which the operators ran that the first rows are about."""
        phases = self._history.marks.phase.take(at)
        _, firsts = number_groups(sites[: len(at)], name[: len(at)], phases)
        for first in firsts.tolist():
            if phases[first]:
                self.phases[int(sites[first]), names[name[first]].op].add(phases[first])

    def _sum_own(self, columns: OpColumns, saved: SavedRows) -> None:
        """Sum up what ran directly in each region, and the storages that it saved."""
        inside = np.flatnonzero(columns.region >= 0)
        groups, firsts = number_groups(columns.region[inside])
        regions = columns.region[inside][firsts]
        sums = (sum_groups(column[inside], groups, len(firsts)).tolist() for column in columns.counts)
        for region, *counts in zip(self._history.regions.at(regions), *sums, strict=True):
            self.regions.open(region).own = OpCounts(*counts)
        inside = np.flatnonzero(saved.region >= 0)
        of = (saved.region, saved.storage, saved.size, saved.made_ns)
        rows = zip(*(column[inside].tolist() for column in of), strict=True)
        for number, storage, size, made in rows:
            self.regions.open(self._history.regions[number]).own_saved[storage] = SavedStorage(size, made)

    def _sum_regions(self) -> None:
        """Add what ran in each region to those around it, the innermost first."""
        involved = set(self.regions)
        for region in self.regions:
            outer = region.parent
            while outer is not None and outer not in involved:
                involved.add(outer)
                outer = outer.parent
        for region in sorted(involved, key=_count_ancestors, reverse=True):
            mine = self.regions.open(region)
            mine.total += mine.own
            mine.saved.update(mine.own_saved)
            if region.parent is not None:
                parent = self.regions.open(region.parent)
                parent.total += mine.total
                parent.saved.update(mine.saved)
                parent.is_complete = parent.is_complete and mine.is_complete

    def _add_escaped_tensors(self) -> None:
        """Add the inference tensors that escaped, once their regions are known."""
        found = _group_by_key(self._contents.accounts.get("outliving"))
        for mark in self._history.marks.of(ESCAPED_TENSORS):
            self._add_escaped(mark, found.get(mark.key, ()), self._history.regions)

    def _add_escaped(self, mark: EventMark, rows: Iterable[tuple[int, ...]], regions: RegionTable) -> None:
        for _, number, made, count, size, held in rows:
            operation = self._operation(number)
            at = EscapeKey(None, mark.site, operation.op, operation.module, mark.thread)
            if count:
                at = at._replace(region=regions.find_innermost({mark.thread}, made - self._origin))
                row = self.escaped[at]
                if not row.count:
                    row.phase = self._history.phases.at(mark.thread, None, made - self._origin)
                row.count += count
                row.bytes += size
                continue
            # What was still alive at the end is known by its place alone, without a region.
            for known, row in self.escaped.items():
                if known._replace(region=None) == at:
                    row.held += held
                    if operation.node:
                        row.holders.add(operation.node)
                    break

    def _count_backward_nodes(self, history: History) -> Column:
        rows = _group_by_key(self._contents.accounts.get("backwards"))
        runs: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for mark in history.marks.of(BACKWARD_PASS):
            if mark.key in rows:
                runs[mark.thread] += [(first, last) for _, first, last in rows[mark.key]]
        columns = history.regions.columns
        reached = np.zeros(len(history.regions), np.int64)
        for thread, found in runs.items():
            chosen = columns.counts_nodes & (columns.thread == thread)
            count = _count_below(_merge(found))
            reached[chosen] = np.maximum(count(columns.end_nodes[chosen]) - count(columns.start_nodes[chosen]), 0)
        return reached

    def _name(self, number: int) -> OpName:
        operation = self._operation(number)
        return OpName(operation.op, operation.node, operation.module, PHASES[operation.phase])

    def _operation(self, number: int) -> Operation:
        return self._operations.get(number) or Operation(number, f"operator {number}", None, "", 0)


def _count_ancestors(region: Region) -> int:
    count = 0
    while region.parent is not None:
        region, count = region.parent, count + 1
    return count


def sum_graph_bytes(region: Region, saved: Mapping[int, SavedStorage]) -> int:
    """Return the bytes of the storages allocated within ``region``, which only the graph keeps alive."""
    return sum(storage.size for storage in saved.values() if storage.made_ns >= region.start_ns)


def sum_bytes(saved: Mapping[int, SavedStorage]) -> int:
    """Return the bytes of all of the storages."""
    return sum(storage.size for storage in saved.values())


def _merge(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the same numbers in ranges that do not overlap."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(runs):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found


def _count_below(ranges: list[tuple[int, int]]) -> Callable[[Column], Column]:
    """Return a function that counts the numbers in ordered ranges, of which there are some, that are below each limit."""
    firsts, lasts = (np.array(ends, np.int64) for ends in zip(*ranges, strict=True))
    before = np.concatenate([[0], np.cumsum(lasts - firsts + 1)])

    def count(limits: Column) -> Column:
        at = np.searchsorted(firsts, limits, side="left")  # ranges that begin below the limit
        beyond = np.where(at > 0, np.maximum(lasts[at - 1] + 1 - limits, 0), 0)
        counted: Column = before[at] - beyond
        return counted

    return count


def _group_by_key(rows: Any) -> dict[int, list[tuple[int, ...]]]:
    found: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    if rows is not None:
        for row in rows.tolist():
            found[row[0]].append(row)
    return found
