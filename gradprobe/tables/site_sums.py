"""Sums over the regions and folded blocks of one site."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from gradprobe.history.process import Process
from gradprobe.history.records import Region
from gradprobe.recording.contents import Fold
from gradprobe.recording.durations import class_middle
from gradprobe.recording.rows import bits_after, bits_before, is_failure
from gradprobe.tables.region_cells import backward_nodes, count_nodes, device_ns, duration_ns, sum_operators


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


class SiteSum:
    """Sum of the regions and folded blocks of one site. A column is missing if any of them lacks it."""

    def __init__(self) -> None:
        self.count = self.total_ns = self.self_ns = self.redundant = self.errors = 0
        self.nodes = self.self_nodes = 0
        self.lacks_nodes = False
        self.device_ns = 0.0
        self.durations: Counter[float] = Counter()
        self.totals = [0] * len(_SiteTotals._fields)
        self.missing: set[int] = set()

    def add_region(self, p: Process, r: Region) -> None:
        """Add one region."""
        duration = duration_ns(r)
        self._add_blocks(1, duration, max(duration - r.child_ns, 0), r.before == r.inside, is_failure(r.error))
        self._add_nodes(*count_nodes(p, r))
        self.durations[duration] += 1
        ops = sum_operators(p, r)
        self._add_totals(
            _SiteTotals(
                saved_bytes=ops.saved_bytes,
                version_bumps=ops.version_bumps,
                graph_bytes=ops.graph_bytes,
                counters_created=ops.counters_created,
                tracked_views=ops.tracked_views,
                untracked_views=ops.untracked_views,
                inference_tensors=ops.inference_tensors,
                backward_nodes=backward_nodes(p, r),
            )
        )
        self.device_ns += device_ns(p, r)

    def add_fold(self, p: Process, fold: Fold) -> None:
        """Add blocks that were added up, whose operators and device times are in no block."""
        # What is not shown inside of a block counts as the block's own.
        own_ns, own_nodes = fold.self_ns, fold.self_nodes
        if not p.include_torch:
            own_ns, own_nodes = own_ns + fold.hidden_ns, own_nodes + fold.hidden_nodes
        is_redundant = bits_before(fold.state) == bits_after(fold.state)
        self._add_blocks(fold.count, fold.total_ns, own_ns, is_redundant, is_failure(fold.error))
        self._add_nodes(*((fold.nodes, own_nodes) if p.counts_nodes else (None, None)))
        for duration, count in fold.durations.items():
            self.durations[class_middle(duration)] += count
        self._add_totals(_NO_TOTALS)
        self.device_ns += float("nan")

    def _add_blocks(self, count: int, total_ns: int, own_ns: int, is_redundant: bool, has_failed: bool) -> None:
        self.count += count
        self.total_ns += total_ns
        self.self_ns += own_ns
        self.redundant += count * is_redundant
        self.errors += count * has_failed

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
            (self.count, self.total_ns, self.self_ns, _median(self.durations), nodes, t.saved_bytes, t.version_bumps)
            + (self.device_ns, self_nodes, self.redundant, self.errors, t.graph_bytes, t.counters_created)
            + (t.tracked_views, t.untracked_views, t.inference_tensors, t.backward_nodes)
        )


def _median(counted: Counter[float]) -> float:
    """Return the median of values, each as often as it was counted."""
    half, below = counted.total() / 2, 0
    values = sorted(counted)
    for index, value in enumerate(values):
        below += counted[value]
        if below == half:  # between this value and the next
            return (value + values[index + 1]) / 2
        if below > half:
            break
    return float(value)
