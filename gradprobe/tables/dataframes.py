"""The tables of a recording, as pandas DataFrames with the columns that users may rely on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from gradprobe.history.op_totals import sum_bytes, sum_graph_bytes
from gradprobe.history.process import Process
from gradprobe.history.records import Region, Transition
from gradprobe.recording.durations import class_middle
from gradprobe.recording.events import ACTION_MASK, CONSTRUCT, MANAGERS, SET_GRAD_ENABLED
from gradprobe.recording.rows import is_failure
from gradprobe.tables.columns import BIRTHS, BUMPS, CALLS, NULLABLE, OPS, REGIONS, RETURNED, SITES, TRANSITIONS

_NOT_MEASURED = float("nan")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    """A DataFrame of ``rows``; counts that may be missing are nullable integers."""
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    frame: pd.DataFrame = pd.DataFrame(
        {
            name: pd.array(list(column), dtype="Int64") if name in NULLABLE else list(column)
            for name, column in zip(columns, values, strict=True)
        },
        columns=list(columns),
    )
    return frame


def transitions(processes: Sequence[Process]) -> pd.DataFrame:
    """One row per enter, exit and set, in the order in which they happened."""
    found: list[tuple[int, Process, Transition]] = [
        (t.time_ns + p.offset_ns, p, t) for p in processes for t in p.history.transitions
    ]
    if len(processes) > 1:
        found.sort(key=lambda item: item[0])
    return table(
        TRANSITIONS,
        [
            (order, time, p.pid, p.rank, p.thread(t.thread), t.task, t.manager, t.form, t.event, *t.before, *t.after)
            + (t.before == t.after, t.depth, None if t.region is None else p.first_region + t.region.number)
            + p.place(t.site or (t.region.site if t.region is not None else 0))
            for order, (time, p, t) in enumerate(found)
        ],
    )


def regions(processes: Sequence[Process]) -> pd.DataFrame:
    """One row per block, and per plain call with what followed it."""
    return table(REGIONS, [_region(p, r) for p in processes for r in p.history.regions])


def _region(p: Process, r: Region) -> tuple[Any, ...]:
    duration = duration_ns(r)
    nodes, self_nodes = _nodes(p, r)
    return (
        (p.first_region + r.number, None if r.parent is None else p.first_region + r.parent.number)
        + (r.manager, r.form, *p.place(r.site), p.pid, p.rank, p.thread(r.thread), r.task, r.depth)
        + (r.start_ns + p.offset_ns, duration, max(duration - r.child_ns, 0), _device_ns(p, r), nodes, self_nodes)
        + _operators(p, r, total=True)
        + (r.error, r.closed, r.before == r.inside, ", ".join(dict.fromkeys(r.irregular)))
        + (*_operators(p, r, total=False), p.compiled.get(r, ""))
        + _device(p, r)
    )


def _device_ns(p: Process, r: Region) -> float:
    time = p.device_times.get(r)
    return _NOT_MEASURED if time is None else float(time.ns)


def _device(p: Process, r: Region) -> tuple[int | None, ...]:
    time = p.device_times.get(r)
    return (None,) * 4 if time is None else (time.device, time.lag_ns, time.allocated_bytes, time.peak_bytes)


def _nodes(p: Process, r: Region) -> tuple[int | None, int | None]:
    """The nodes constructed in a region, and those of them in no region within it.

    The thread's number counts for all of its tasks; where they took turns, the operators tell whose the nodes are.
    """
    if r.nodes is not None:
        return r.nodes, r.nodes - r.child_nodes
    known = p.op_totals.regions[r]
    if r.is_shared and r.thread in p.watched and known.is_complete:
        return known.total.nodes, known.own.nodes
    return None, None


def _operators(p: Process, r: Region, *, total: bool) -> tuple[Any, ...]:
    """What ran in a region, in the order of the columns; missing where its thread's operators were not seen."""
    known = p.op_totals.regions[r]
    backward = backward_nodes(p, r)
    if r.thread not in p.watched or not known.is_complete:
        return (None,) * 5 if total else (None,) * 8 + (backward,)
    own, a = known.own, known.total
    saved, of_graph, own_saved, own_of_graph = (
        (
            sum_bytes(known.saved),
            sum_graph_bytes(r, known.saved),
            sum_bytes(known.own_saved),
            sum_graph_bytes(r, known.own_saved),
        )
        if p.counts_saved
        else (None,) * 4
    )
    if total:
        return (saved, a.version_bumps, a.counters_created, a.tracked_views, a.inference_outputs)
    return (
        (own_saved, own_of_graph)
        + (own.version_bumps, own.counters_created, own.tracked_views)
        + (a.untracked_views, of_graph, a.uncounted_writes, backward)
    )


def _totals(p: Process, r: Region) -> Sequence[int | None]:
    """What the table of sites sums up, in the order of its columns."""
    if r.thread not in p.watched:
        return (None,) * (_OPERATOR_COLUMNS - 1) + (backward_nodes(p, r),)
    saved, bumps, counters, tracked, inference = _operators(p, r, total=True)
    untracked, graph, _, backward = _operators(p, r, total=False)[-4:]
    return saved, bumps, graph, counters, tracked, untracked, inference, backward


def backward_nodes(p: Process, r: Region) -> int | None:
    """The nodes of a region that a backward reached, where that is known: past the limit no passes are kept."""
    is_known = p.counts_nodes and r.nodes is not None and not p.contents.folds
    return p.op_totals.regions[r].backward_nodes if is_known else None


def ops(processes: Sequence[Process]) -> pd.DataFrame:
    """One row per region, operator, line and module; those that ran in no region have none."""
    rows = []
    for p in processes:
        for key, known in p.op_totals.ops.items():
            a = known.account
            saved, of_graph = (known.saved_bytes, known.graph_bytes) if p.counts_saved else (None, None)
            rows.append(
                (None if key.region is None else p.first_region + key.region.number, key.op, *p.place(key.site))
                + (a.calls, a.nodes, saved, a.version_bumps, a.counters_created, a.tracked_views)
                + (a.inference_outputs, a.normal_outputs, a.untracked_views, of_graph, a.uncounted_writes)
                + (a.hooked, a.failed_version_reads, a.normal_without_counter, a.inference_with_counter)
                + (key.module, key.node, key.phase, p.pid, p.rank, p.thread(key.thread))
            )
    return table(OPS, rows)


def births(processes: Sequence[Process]) -> pd.DataFrame:
    """One row per place and region where inference tensors were born that outlived inference mode."""
    return table(
        BIRTHS,
        [
            (at.op, *p.place(at.site), at.module, None if at.region is None else p.first_region + at.region.number)
            + (p.pid, p.rank, p.thread(at.thread), row.count, row.bytes, row.held, ", ".join(sorted(row.holders)))
            for p in processes
            for at, row in p.op_totals.escaped.items()
        ],
    )


def duration_ns(region: Region) -> int:
    """From enter to exit, children included."""
    return (region.end_ns or region.start_ns) - region.start_ns


def sites(processes: Sequence[Process]) -> pd.DataFrame:
    """One row per manager and source line, the costliest first; blocks that were added up are in it."""
    sums: dict[tuple[Any, ...], _Sum] = {}
    for p in processes:
        known: dict[tuple[int, str, str], _Sum] = {}
        for r in p.history.regions:
            duration = duration_ns(r)
            row = known.get((r.site, r.manager, r.form))
            if row is None:
                row = sums.setdefault((*p.place(r.site), r.manager, r.form), _Sum())
                known[r.site, r.manager, r.form] = row
            row.add(1, duration, max(duration - r.child_ns, 0), r.before == r.inside, is_failure(r.error))
            row.add_nodes(*_nodes(p, r))
            row.durations[duration] += 1
            row.add_operators(_totals(p, r))
            row.device_ns += _device_ns(p, r)
        for fold in p.contents.folds:
            site = p.contents.sites.get(fold.site)
            if site is not None and site.internal and not p.include_torch:
                continue
            manager = MANAGERS.get(fold.manager & ~ACTION_MASK)
            if manager is None:
                continue
            form = "call" if fold.manager == SET_GRAD_ENABLED | CONSTRUCT else site.form if site else "with"
            is_same = fold.state & 0b1111 == fold.state >> 4
            row = sums.setdefault((*p.place(fold.site), manager, form), _Sum())
            # What is not shown inside of a block counts as the block's own.
            own, own_nodes = fold.self_ns, fold.self_nodes
            if not p.include_torch:
                own, own_nodes = own + fold.hidden_ns, own_nodes + fold.hidden_nodes
            row.add(fold.count, fold.total_ns, own, is_same, is_failure(fold.error))
            row.device_ns += _NOT_MEASURED
            row.missing.update(range(_OPERATOR_COLUMNS))  # those of added up blocks are in no block
            row.add_nodes(*((fold.nodes, own_nodes) if p.counts_nodes else (None, None)))
            for duration_class, count in fold.durations.items():
                row.durations[class_middle(duration_class)] += count
    rows = [(*key, *row.values()) for key, row in sums.items()]
    return table(SITES, sorted(rows, key=lambda row: -row[6]))


_OPERATOR_COLUMNS = 8


class _Sum:
    def __init__(self) -> None:
        self.count = self.total_ns = self.self_ns = self.redundant = self.errors = 0
        self.nodes = self.self_nodes = 0
        self.lacks_nodes = False
        self.device_ns = 0.0
        """A sum that lacks that of one region is none."""
        self.durations: Counter[float] = Counter()
        self.operators = [0] * _OPERATOR_COLUMNS
        self.missing: set[int] = set()

    def add_operators(self, totals: Sequence[int | None]) -> None:
        """Adds those of one more region, in the order of ``values``."""
        for index, value in enumerate(totals):
            if value is None:
                self.missing.add(index)
            else:
                self.operators[index] += value

    def add(self, count: int, total: int, own: int, redundant: bool, failed: bool) -> None:
        self.count += count
        self.total_ns += total
        self.self_ns += own
        self.redundant += count * redundant
        self.errors += count * failed

    def add_nodes(self, nodes: int | None, own: int | None) -> None:
        """Adds those of one more region; a sum that lacks those of one is none."""
        if nodes is None or own is None:
            self.lacks_nodes = True
        else:
            self.nodes, self.self_nodes = self.nodes + nodes, self.self_nodes + own

    def values(self) -> tuple[Any, ...]:
        saved, bumps, *others = (None if i in self.missing else n for i, n in enumerate(self.operators))
        nodes, self_nodes = (None, None) if self.lacks_nodes else (self.nodes, self.self_nodes)
        return (
            (self.count, self.total_ns, self.self_ns, _median(self.durations), nodes, saved, bumps, self.device_ns)
            + (self_nodes, self.redundant, self.errors)
            + tuple(others)
        )


def _median(counted: Counter[float]) -> float:
    """The median of values, each as often as it was counted."""
    half, below = counted.total() / 2, 0
    values = sorted(counted)
    for index, value in enumerate(values):
        below += counted[value]
        if below == half:  # between this value and the next
            return (value + values[index + 1]) / 2
        if below > half:
            break
    return float(value)


def calls(processes: Sequence[Process]) -> pd.DataFrame:
    """One row per call of a probed function; of a generator or coroutine, ``duration_ns`` is the time its body ran."""
    rows = []
    for p in processes:
        returned = {row[0]: row[1:] for row in p.contents.accounts.get("returns", np.empty(0)).tolist()}
        if not p.counts_saved:
            returned = {key: (nodes, None, None, *others) for key, (nodes, _, _, *others) in returned.items()}
        for c in p.history.calls:
            file, line, function = p.place(c.site)
            rows.append(
                (function, file, line, p.pid, p.rank, p.thread(c.thread), c.task, c.start_ns + p.offset_ns)
                + (c.active_ns, c.steps, c.nodes if p.counts_nodes else None, c.error, c.closed)
                + returned.get(c.key, (None,) * (len(RETURNED) + len(BUMPS)))
            )
    return table(CALLS, rows)
