"""Sums over the regions and folded blocks of one site."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gradprobe.history.edge_pairs import Column
from gradprobe.history.process import Process
from gradprobe.history.region_table import add_up
from gradprobe.recording.contents import Fold
from gradprobe.recording.durations import class_middle
from gradprobe.recording.rows import bits_after, bits_before, is_failure
from gradprobe.tables.region_cells import count_nodes, sum_backward_nodes, sum_operators


class _SiteTotals(NamedTuple):
    """Columns of a site that sum up what operators did in its regions."""

    saved_bytes: int | None = None
    version_bumps: int | None = None
    graph_bytes: int | None = None
    counters_created: int | None = None
    tracked_views: int | None = None
    untracked_views: int | None = None
    inference_tensors: int | None = None
    backward_nodes: int | None = None


_NO_TOTALS = _SiteTotals()
_ZEROS = _SiteTotals(0, 0, 0, 0, 0, 0, 0, 0)
_NOT_MEASURED = float("nan")


class SiteSum:
    """Sum of the regions and folded blocks of one site. A column is missing if any of them lacks it."""

    def __init__(self) -> None:
        self.count = self.total_ns = self.self_ns = self.redundant = self.errors = 0
        self.nodes = self.self_nodes = 0
        self.lacks_nodes = False
        self.device_ns = 0.0
        self.durations: list[Column] = []
        self.folded: Counter[float] = Counter()
        self.totals = [0] * len(_SiteTotals._fields)
        self.missing: set[int] = set()

    def add_regions(self, p: Process, numbers: Column) -> None:
        """Add the regions of a process with these numbers."""
        columns = p.history.regions.columns
        durations = columns.duration_ns[numbers]
        redundant = int((columns.before[numbers] == columns.inside[numbers]).sum())
        errors = int(columns.error.find(is_failure)[numbers].sum())
        self._add_blocks(len(numbers), add_up(durations), add_up(columns.self_ns[numbers]), redundant, errors)
        self.durations.append(durations)
        self._add_nodes_of(p, numbers)
        self._add_operators_of(p, numbers)
        times = p.device_ns
        self.device_ns += (
            sum(times.get(number, _NOT_MEASURED) for number in numbers.tolist()) if times else _NOT_MEASURED
        )

    def _add_nodes_of(self, p: Process, numbers: Column) -> None:
        columns, regions = p.history.regions.columns, p.history.regions
        is_counted, is_shared = columns.counts_nodes[numbers], columns.is_shared[numbers]
        counted = numbers[is_counted]
        if not (is_counted | is_shared).all():
            self._add_nodes(None, None)
        self._add_nodes(add_up(columns.nodes[counted]), add_up(columns.nodes[counted] - columns.child_nodes[counted]))
        for region in regions.at(numbers[is_shared]):
            self._add_nodes(*count_nodes(p, region))

    def _add_operators_of(self, p: Process, numbers: Column) -> None:
        regions, totals = p.history.regions, p.op_totals
        has_operators = np.isin(numbers, [region.number for region in totals.regions])
        # Most regions of a long recording have no operators: they are all alike, as far as their threads are.
        without = numbers[~has_operators]
        firsts = np.unique(regions.columns.thread[without], return_index=True)[1]
        for region in regions.at([*numbers[has_operators], *without[firsts]]):
            ops = sum_operators(p, region)
            self._add_totals(
                _SiteTotals(
                    saved_bytes=ops.saved_bytes,
                    version_bumps=ops.version_bumps,
                    graph_bytes=ops.graph_bytes,
                    counters_created=ops.counters_created,
                    tracked_views=ops.tracked_views,
                    untracked_views=ops.untracked_views,
                    inference_tensors=ops.inference_tensors,
                    backward_nodes=0,
                )
            )
        reached = sum_backward_nodes(p, numbers)
        self._add_totals(_ZEROS._replace(backward_nodes=reached))

    def add_fold(self, p: Process, fold: Fold) -> None:
        """Add blocks that were added up, whose operators and device times are in no block."""
        # What is not shown inside of a block counts as the block's own.
        own_ns, own_nodes = fold.self_ns, fold.self_nodes
        if not p.include_torch:
            own_ns, own_nodes = own_ns + fold.hidden_ns, own_nodes + fold.hidden_nodes
        redundant = fold.count * (bits_before(fold.state) == bits_after(fold.state))
        self._add_blocks(fold.count, fold.total_ns, own_ns, redundant, fold.count * is_failure(fold.error))
        self._add_nodes(*((fold.nodes, own_nodes) if p.counts_nodes else (None, None)))
        for duration, count in fold.durations.items():
            self.folded[class_middle(duration)] += count
        self._add_totals(_NO_TOTALS)
        self.device_ns += _NOT_MEASURED

    def _add_blocks(self, count: int, total_ns: int, own_ns: int, redundant: int, errors: int) -> None:
        self.count += count
        self.total_ns += total_ns
        self.self_ns += own_ns
        self.redundant += redundant
        self.errors += errors

    def _add_nodes(self, nodes: int | None, own: int | None) -> None:
        if nodes is None or own is None:
            self.lacks_nodes = True
        else:
            self.nodes, self.self_nodes = self.nodes + nodes, self.self_nodes + own

    def _add_totals(self, totals: _SiteTotals) -> None:
        for index, value in enumerate(totals):
            if value is None:
                self.missing.add(index)
            else:
                self.totals[index] += value

    def cells(self) -> tuple[Any, ...]:
        """Return the values after those that identify the site, in the order of the columns."""
        t = _SiteTotals(*(None if index in self.missing else value for index, value in enumerate(self.totals)))
        nodes, self_nodes = (None, None) if self.lacks_nodes else (self.nodes, self.self_nodes)
        return (
            (
                self.count,
                self.total_ns,
                self.self_ns,
                _median(self.durations, self.folded),
                nodes,
                t.saved_bytes,
                t.version_bumps,
            )
            + (self.device_ns, self_nodes, self.redundant, self.errors, t.graph_bytes, t.counters_created)
            + (t.tracked_views, t.untracked_views, t.inference_tensors, t.backward_nodes)
        )


def _median(durations: Sequence[Column], folded: Counter[float]) -> float:
    """Return the median of durations together with those of folded blocks, each as often as it was counted."""
    values = np.sort(np.concatenate([*durations, np.zeros(0, np.int64)]))
    if not folded:
        low, high = values[(len(values) - 1) // 2], values[len(values) // 2]
        return (int(low) + int(high)) / 2
    counted = Counter(folded)
    counted.update(values.tolist())
    half, below = counted.total() / 2, 0
    ordered = sorted(counted)
    for index, value in enumerate(ordered):
        below += counted[value]
        if below == half:  # between this value and the next
            return (value + ordered[index + 1]) / 2
        if below > half:
            break
    return float(value)
