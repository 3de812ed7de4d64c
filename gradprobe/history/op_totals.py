"""Totals of what operators did, by region, place, operator and module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from gradprobe.history.edge_pairs import Column
from gradprobe.history.process_history import History
from gradprobe.history.records import EventMark, Region
from gradprobe.history.region_table import RegionTable
from gradprobe.recording.contents import Contents, OpFold
from gradprobe.recording.events import BACKWARD_PASS, ESCAPED_TENSORS, FOLDED_OPERATORS, TALLY
from gradprobe.recording.module_roots import ModuleNames
from gradprobe.recording.op_rows import NO_COUNTS, PHASES, OpCounts, Operation


class SavedStorage(NamedTuple):
    """Storage saved for backward: its bytes, and when it was allocated, -1 if before the recording."""

    size: int
    made_ns: int


Storages = dict[int, SavedStorage]
"""Saved storages by number."""


class OpKey(NamedTuple):
    """Identity of a row of operators."""

    region: Region | None
    site: int
    op: str
    node: str | None
    module: str
    phase: str
    thread: int


@dataclass
class OpSum:
    """Sum over the operators of one row. A storage counts in the first row of its region that saved it."""

    account: OpCounts = NO_COUNTS
    saved_bytes: int = 0
    graph_bytes: int = 0


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
        self.ops: dict[OpKey, OpSum] = {}
        self.regions = _RegionSums()
        self.escaped: dict[EscapeKey, EscapedTensors] = defaultdict(EscapedTensors)
        self._tallies = _group_by_key(contents.accounts.get("tallies"))
        self._saved = _group_by_key(contents.accounts.get("saved"))
        self._escaped_rows = _group_by_key(contents.accounts.get("outliving"))
        inputs = _group_by_key(contents.accounts.get("inputs"))
        self._inputs = {storage for rows in inputs.values() for _, storage in rows}
        self._outside: Storages = {}
        self.phases: dict[tuple[int, str], set[str]] = defaultdict(set)
        """Phases in which an operator ran at a site."""
        self.storages: dict[int, int] = {}
        """Bytes of every storage that was saved for backward anywhere."""
        self.of_graphs: dict[int, int] = {}
        """Bytes of the storages among them that only the graph keeps alive."""
        for mark in history.marks:
            if mark.op == TALLY:
                self._add_tally(mark)
            elif mark.op == FOLDED_OPERATORS and mark.region is not None:
                self.regions.open(mark.region).is_complete = False
        for fold in contents.op_folds:
            self._add_fold(fold)
        self._sum_regions()
        for mark in history.marks:
            if mark.op == ESCAPED_TENSORS:
                self._add_escaped(mark, history.regions)
        self.backward_nodes = self._count_backward_nodes(history)
        """Number of the nodes constructed in each region that a backward pass reached later."""

    def _add_tally(self, mark: EventMark) -> None:
        region = self.regions.open(mark.region) if mark.region is not None else None
        known = self._outside if region is None else region.own_saved
        for _, number, *counts in self._tallies.get(mark.key, ()):
            operation = self._operation(number)
            key = OpKey(
                mark.region,
                mark.site,
                operation.op,
                operation.node,
                operation.module,
                PHASES[operation.phase],
                mark.thread,
            )
            row = self.ops.setdefault(key, OpSum())
            row.account += OpCounts(*counts)
            if mark.phase:
                self.phases[mark.site, operation.op].add(mark.phase)
            if region is not None:
                region.own += OpCounts(*counts)
            for _, storage, size, made in self._saved.get(mark.key, ()):
                if storage not in known:
                    known[storage] = SavedStorage(size, made - self._origin if made >= 0 else -1)
                    row.saved_bytes += size
                    self.storages[storage] = size
                    if self._is_of_graph(mark.region, storage, known[storage].made_ns):
                        row.graph_bytes += size
                        self.of_graphs[storage] = size

    def _is_of_graph(self, region: Region | None, storage: int, made: int) -> bool:
        """Return whether only the graph keeps a storage. Outside of regions, all but inputs count as such."""
        return made >= 0 and storage not in self._inputs if region is None else made >= region.start_ns

    def _add_fold(self, fold: OpFold) -> None:
        """Add operators that were added up, which are in no region."""
        operation = self._operation(fold.operation)
        phase = PHASES[operation.phase]
        key = OpKey(None, fold.site, operation.op, operation.node, operation.module, phase, fold.thread)
        row = self.ops.setdefault(key, OpSum())
        saved, *counts = fold.sums
        row.account += OpCounts(*counts)
        row.saved_bytes += saved

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

    def _add_escaped(self, mark: EventMark, regions: RegionTable) -> None:
        for _, number, made, count, size, held in self._escaped_rows.get(mark.key, ()):
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
        for mark in history.marks:
            if mark.op == BACKWARD_PASS and mark.key in rows:
                runs[mark.thread] += [(first, last) for _, first, last in rows[mark.key]]
        columns = history.regions.columns
        reached = np.zeros(len(history.regions), np.int64)
        for thread, found in runs.items():
            chosen = columns.counts_nodes & (columns.thread == thread)
            count = _count_below(_merge(found))
            reached[chosen] = np.maximum(count(columns.end_nodes[chosen]) - count(columns.start_nodes[chosen]), 0)
        return reached

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
