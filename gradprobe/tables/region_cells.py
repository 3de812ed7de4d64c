"""Cells of a region that several tables share: its duration, its nodes, and what operators did in it."""

from __future__ import annotations

from typing import NamedTuple

from gradprobe.history.edge_pairs import Column
from gradprobe.history.op_totals import sum_bytes, sum_graph_bytes
from gradprobe.history.phase_timeline import Phase
from gradprobe.history.process import Process
from gradprobe.history.records import Region
from gradprobe.history.region_table import add_up

_NOT_MEASURED = float("nan")


def duration_ns(region: Region | Phase) -> int:
    """Return the time from enter to exit of a region, children included, or of a phase."""
    return (region.end_ns or region.start_ns) - region.start_ns


def device_ns(p: Process, r: Region) -> float:
    """Return the time that a device took for a region; NaN if it was not measured."""
    time = p.device_times.get(r)
    return _NOT_MEASURED if time is None else float(time.ns)


def count_nodes(p: Process, r: Region) -> tuple[int | None, int | None]:
    """Return the number of nodes constructed in a region, and in no region inside it.

    The thread's number counts for all of its tasks; if they took turns, the operators show whose the nodes are.
    """
    if r.nodes is not None:
        return r.nodes, r.nodes - r.child_nodes
    known = p.op_totals.regions[r]
    if r.is_shared and r.thread in p.watched and known.is_complete:
        return known.total.nodes, known.own.nodes
    return None, None


class RegionOperators(NamedTuple):
    """Cells of a region about its operators; missing if its thread's operators were not observed."""

    saved_bytes: int | None = None
    version_bumps: int | None = None
    counters_created: int | None = None
    tracked_views: int | None = None
    inference_tensors: int | None = None
    self_saved_bytes: int | None = None
    self_graph_bytes: int | None = None
    self_version_bumps: int | None = None
    self_counters_created: int | None = None
    self_tracked_views: int | None = None
    untracked_views: int | None = None
    graph_bytes: int | None = None
    uncounted_writes: int | None = None


_NO_OPERATORS = RegionOperators()


def sum_operators(p: Process, r: Region) -> RegionOperators:
    """Return the cells of a region about its operators."""
    known = p.op_totals.regions[r]
    if r.thread not in p.watched or not known.is_complete:
        return _NO_OPERATORS
    own, total, is_known = known.own, known.total, p.counts_saved
    return RegionOperators(
        saved_bytes=sum_bytes(known.saved) if is_known else None,
        version_bumps=total.version_bumps,
        counters_created=total.counters_created,
        tracked_views=total.tracked_views,
        inference_tensors=total.inference_outputs,
        self_saved_bytes=sum_bytes(known.own_saved) if is_known else None,
        self_graph_bytes=sum_graph_bytes(r, known.own_saved) if is_known else None,
        self_version_bumps=own.version_bumps,
        self_counters_created=own.counters_created,
        self_tracked_views=own.tracked_views,
        untracked_views=total.untracked_views,
        graph_bytes=sum_graph_bytes(r, known.saved) if is_known else None,
        uncounted_writes=total.uncounted_writes,
    )


def sum_backward_nodes(p: Process, numbers: Column) -> int | None:
    """Return the number of nodes of these regions that a backward pass reached; None if it is not known of all.

    Past the limit of a recording no backward passes are kept.
    """
    is_known = p.counts_nodes and not p.contents.folds and p.history.regions.columns.counts_nodes[numbers].all()
    return add_up(p.op_totals.backward_nodes[numbers]) if is_known else None
