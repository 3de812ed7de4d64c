"""What operators did, summed up by region, place, operator and module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gradprobe.history.records import EventMark, History, Region
from gradprobe.recording.events import BACKWARD_PASS, ESCAPED_TENSORS, FOLDED_OPERATORS, TALLY
from gradprobe.recording.op_rows import NO_COUNTS, PHASES, OpCounts, Operation
from gradprobe.recording.sqlite_file import Contents, OpFold

Storages = dict[int, tuple[int, int]]
"""Bytes of each storage, and when it was made, since the recording began."""


class OpKey(NamedTuple):
    """What a row of operators is about."""

    region: Region | None
    site: int
    op: str
    node: str | None
    module: str
    phase: str
    thread: int


@dataclass
class OpSum:
    """What the operators of one row did. A storage counts at the first row of its region that saved it."""

    account: OpCounts = NO_COUNTS
    saved_bytes: int = 0
    graph_bytes: int = 0


@dataclass
class RegionSum:
    """What ran in a region: directly in it, and in all."""

    own: OpCounts = NO_COUNTS
    total: OpCounts = NO_COUNTS
    own_saved: Storages = field(default_factory=dict)
    saved: Storages = field(default_factory=dict)
    is_complete: bool = True
    """Whether all operators that ran in it are in these sums."""
    backward_nodes: int = 0
    """Of the nodes constructed in it, those that a backward pass reached later."""


class CreationCounts(NamedTuple):
    """Where inference tensors were born that outlived inference mode."""

    region: Region | None
    site: int
    op: str
    module: str
    thread: int


@dataclass
class EscapedTensors:
    """How many of them left inference mode alive, their bytes, how many lived at the end, and what held those."""

    count: int = 0
    bytes: int = 0
    held: int = 0
    holders: set[str] = field(default_factory=set)


class OpTotals:
    """The accounts of one process, tied to the regions of its history."""

    def __init__(self, contents: Contents, history: History) -> None:
        self._contents = contents
        self._origin = int(contents.meta.get("began_ns", 0))
        self.ops: dict[OpKey, OpSum] = {}
        self.regions: dict[Region, RegionSum] = defaultdict(RegionSum)
        self.outlived: dict[CreationCounts, EscapedTensors] = defaultdict(EscapedTensors)
        self._tallies = _by_key(contents.accounts.get("tallies"))
        self._saved = _by_key(contents.accounts.get("saved"))
        self._outliving = _by_key(contents.accounts.get("outliving"))
        self._inputs = {storage for found in _by_key(contents.accounts.get("inputs")).values() for _, storage in found}
        self._outside: Storages = {}
        self.storages: dict[int, int] = {}
        """The bytes of every storage that was saved for backward anywhere."""
        self.of_graphs: dict[int, int] = {}
        """Those that the graph alone keeps alive."""
        for mark in history.marks:
            if mark.op == TALLY:
                self._tally(mark)
            elif mark.op == FOLDED_OPERATORS and mark.region is not None:
                self.regions[mark.region].is_complete = False
        for fold in contents.op_folds:
            self._fold(fold)
        self._sum_up(history.regions)
        for mark in history.marks:
            if mark.op == ESCAPED_TENSORS:
                self._outlive(mark, history.regions)
        self._backwards(history)

    def _tally(self, mark: EventMark) -> None:
        region = self.regions[mark.region] if mark.region is not None else None
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
            if region is not None:
                region.own += OpCounts(*counts)
            for _, storage, size, made in self._saved.get(mark.key, ()):
                if storage not in known:
                    known[storage] = size, made - self._origin if made >= 0 else -1
                    row.saved_bytes += size
                    self.storages[storage] = size
                    if self._is_of_graph(mark.region, storage, known[storage][1]):
                        row.graph_bytes += size
                        self.of_graphs[storage] = size

    def _is_of_graph(self, region: Region | None, storage: int, made: int) -> bool:
        """Whether a region's graph keeps a storage, and not its caller; what ran in no region has no caller to tell."""
        return made >= 0 and storage not in self._inputs if region is None else made >= region.start_ns

    def _fold(self, fold: OpFold) -> None:
        """Operators that were added up are in no region."""
        operation = self._operation(fold.operation)
        phase = PHASES[operation.phase]
        key = OpKey(None, fold.site, operation.op, operation.node, operation.module, phase, fold.thread)
        row = self.ops.setdefault(key, OpSum())
        saved, *counts = fold.sums
        row.account += OpCounts(*counts)
        row.saved_bytes += saved

    def _sum_up(self, regions: Iterable[Region]) -> None:
        """Adds what ran in each region to those around it, the innermost first."""
        for region in sorted(regions, key=_ancestors, reverse=True):
            mine = self.regions[region]
            mine.total += mine.own
            mine.saved.update(mine.own_saved)
            if region.parent is not None:
                parent = self.regions[region.parent]
                parent.total += mine.total
                parent.saved.update(mine.saved)
                parent.is_complete = parent.is_complete and mine.is_complete

    def _outlive(self, mark: EventMark, regions: list[Region]) -> None:
        for _, number, made, count, size, held in self._outliving.get(mark.key, ()):
            operation = self._operation(number)
            at = CreationCounts(None, mark.site, operation.op, operation.module, mark.thread)
            if count:
                at = at._replace(region=_innermost(regions, mark.thread, made - self._origin))
                row = self.outlived[at]
                row.count += count
                row.bytes += size
                continue
            # What was alive at the end is told by its place alone.
            for known, row in self.outlived.items():
                if known._replace(region=None) == at:
                    row.held += held
                    if operation.node:
                        row.holders.add(operation.node)
                    break

    def _backwards(self, history: History) -> None:
        rows = _by_key(self._contents.accounts.get("backwards"))
        runs: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for mark in history.marks:
            if mark.op == BACKWARD_PASS:
                runs[mark.thread] += [(first, last) for _, first, last in rows.get(mark.key, ())]
        merged = {thread: _merged(found) for thread, found in runs.items()}
        for region in history.regions:
            if region.nodes:
                self.regions[region].backward_nodes = sum(
                    max(0, min(last + 1, region.end_nodes) - max(first, region.start_nodes))
                    for first, last in merged.get(region.thread, ())
                )

    def _operation(self, number: int) -> Operation:
        return self._contents.operations.get(number) or Operation(number, f"operator {number}", None, "", 0)


def _ancestors(region: Region) -> int:
    count = 0
    while region.parent is not None:
        region, count = region.parent, count + 1
    return count


def graph_bytes(region: Region, saved: Mapping[int, tuple[int, int]]) -> int:
    """The bytes of those storages that were made within ``region``: the graph keeps them, not the caller."""
    return sum(size for size, made in saved.values() if made >= region.start_ns)


def sum_bytes(saved: Mapping[int, tuple[int, int]]) -> int:
    """The bytes of all of the storages."""
    return sum(size for size, _ in saved.values())


def _innermost(regions: list[Region], thread: int, time: int) -> Region | None:
    """The innermost region of ``thread`` at ``time``."""
    found = None
    for region in regions:
        if region.start_ns > time:
            break
        if region.thread == thread and (region.end_ns is None or region.end_ns >= time):
            found = region
    return found


def _merged(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same numbers in runs that do not overlap."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(runs):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found


def _by_key(rows: Any) -> dict[int, list[tuple[int, ...]]]:
    found: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    if rows is not None:
        for row in rows.tolist():
            found[row[0]].append(row)
    return found
