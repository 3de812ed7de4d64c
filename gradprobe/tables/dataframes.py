"""DataFrames of a recording, with the columns that ``columns.py`` defines.

A row is a tuple of values in the order of the columns; what is missing is None or NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from gradprobe.history.process import Process
from gradprobe.history.records import Region, Transition
from gradprobe.history.row_groups import group_rows
from gradprobe.recording.events import ACTION_MASK, CONSTRUCT, MANAGERS, SET_GRAD_ENABLED
from gradprobe.recording.op_rows import RETURNS_FIELDS
from gradprobe.tables.call_columns import CALLS
from gradprobe.tables.column_definition import Column, Table
from gradprobe.tables.mode_columns import TRANSITIONS
from gradprobe.tables.operator_columns import BIRTHS, OPS
from gradprobe.tables.phase_columns import PHASES
from gradprobe.tables.region_cells import backward_nodes, count_nodes, device_ns, duration_ns, sum_operators
from gradprobe.tables.region_columns import REGIONS, SITES
from gradprobe.tables.site_sums import SiteSum

TEXT_DTYPE = pd.Series([""]).dtype
"""Dtype of columns of text: ``str`` since pandas 3, ``object`` before."""


def make_dataframe(table: Table, rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    """Return a DataFrame of ``rows`` with the columns and dtypes of ``table``."""
    values = list(zip(*rows, strict=True)) or [()] * len(table.columns)
    frame: pd.DataFrame = pd.DataFrame(
        {column.name: _make_column(column, list(one)) for column, one in zip(table.columns, values, strict=True)}
    )
    return frame


def _make_column(column: Column, values: list[Any]) -> pd.Series[Any]:
    dtype: Any = TEXT_DTYPE if column.dtype == "str" else column.dtype
    cells: pd.Series[Any]
    try:
        cells = pd.Series(values, dtype=dtype)
    except OverflowError:
        # Numbers of a damaged or edited file fit into 64 bits, but sums of them may not.
        cells = pd.Series(values, dtype="object")
    return cells


def build_transitions(processes: Sequence[Process], limit: int | None = None) -> pd.DataFrame:
    """Build the table of transitions, or of the first ``limit``, in the order in which they happened."""
    return make_dataframe(
        TRANSITIONS,
        [
            (order, t.time_ns + p.offset_ns, p.pid, p.rank, p.thread(t.thread), t.task, t.manager, t.form, t.event)
            + (*t.before, *t.after, t.before == t.after, t.depth, _region_number(p, t.region))
            + (*p.place(t.site or (t.region.site if t.region is not None else 0)), t.phase)
            for order, (p, t) in enumerate(_iter_transitions(processes, limit))
        ],
    )


def _iter_transitions(processes: Sequence[Process], limit: int | None) -> Iterator[tuple[Process, Transition]]:
    """Yield the transitions of all processes, or the first ``limit``, in the order in which they happened."""
    if len(processes) < 2:
        yield from islice(((p, t) for p in processes for t in p.history.transitions), limit)
        return
    times = np.concatenate([p.history.transitions.columns.time_ns + p.offset_ns for p in processes])
    ends = np.cumsum([len(p.history.transitions) for p in processes])
    order = np.argsort(times, kind="stable")[:limit]
    for at, number in zip(order.tolist(), np.searchsorted(ends, order, side="right").tolist(), strict=True):
        transitions = processes[number].history.transitions
        yield processes[number], transitions[at - int(ends[number]) + len(transitions)]


def build_regions(processes: Sequence[Process], limit: int | None = None) -> pd.DataFrame:
    """Build the table of regions, or of the first ``limit``, by process and in the order of their start."""
    regions = ((p, r) for p in processes for r in p.history.regions)
    return make_dataframe(REGIONS, [_region_row(p, r) for p, r in islice(regions, limit)])


def _region_row(p: Process, r: Region) -> tuple[Any, ...]:
    duration = duration_ns(r)
    nodes, self_nodes = count_nodes(p, r)
    ops = sum_operators(p, r)
    return (
        (p.first_region + r.number, _region_number(p, r.parent))
        + (r.manager, r.form, *p.place(r.site), p.pid, p.rank, p.thread(r.thread), r.task, r.depth)
        + (r.start_ns + p.offset_ns, duration, max(duration - r.child_ns, 0), device_ns(p, r), nodes, self_nodes)
        + (ops.saved_bytes, ops.version_bumps, ops.counters_created, ops.tracked_views, ops.inference_tensors)
        + (r.error, r.closed, r.before == r.inside, ", ".join(dict.fromkeys(r.irregular)))
        + (ops.self_saved_bytes, ops.self_graph_bytes, ops.self_version_bumps, ops.self_counters_created)
        + (ops.self_tracked_views, ops.untracked_views, ops.graph_bytes, ops.uncounted_writes)
        + (backward_nodes(p, r), p.compiled.get(r, ""))
        + (*_device_cells(p, r), r.phase)
    )


def _region_number(p: Process, region: Region | None) -> int | None:
    return None if region is None else p.first_region + region.number


def _device_cells(p: Process, r: Region) -> tuple[int | None, ...]:
    time = p.device_times.get(r)
    return (None,) * 4 if time is None else (time.device, time.lag_ns, time.allocated_bytes, time.peak_bytes)


def build_ops(processes: Sequence[Process]) -> pd.DataFrame:
    """Build the table of operators; those that ran in no region have none."""
    rows = []
    for p in processes:
        for key, known in p.op_totals.ops.items():
            a = known.account
            saved, of_graph = (known.saved_bytes, known.graph_bytes) if p.counts_saved else (None, None)
            rows.append(
                (_region_number(p, key.region), key.op, *p.place(key.site))
                + (a.calls, a.nodes, saved, a.version_bumps, a.counters_created, a.tracked_views)
                + (a.inference_outputs, a.normal_outputs, a.untracked_views, of_graph, a.uncounted_writes)
                + (a.hooked, a.failed_version_reads, a.normal_without_counter, a.inference_with_counter)
                + (key.module, key.node, key.phase, p.pid, p.rank, p.thread(key.thread))
            )
    return make_dataframe(OPS, rows)


def build_births(processes: Sequence[Process]) -> pd.DataFrame:
    """Build the table of the places where inference tensors were created that escaped inference mode."""
    return make_dataframe(
        BIRTHS,
        [
            (at.op, *p.place(at.site), at.module, _region_number(p, at.region), p.pid, p.rank, p.thread(at.thread))
            + (row.count, row.bytes, row.held, ", ".join(sorted(row.holders)), row.phase)
            for p in processes
            for at, row in p.op_totals.escaped.items()
        ],
    )


def build_phases(processes: Sequence[Process]) -> pd.DataFrame:
    """Build the table of phases, by process and in the order of their start."""
    rows = []
    for p in processes:
        for phase in p.history.phases.found:
            parent = "" if phase.parent is None else phase.parent.name
            rows.append(
                (phase.name, *p.place(phase.site)[:2], p.pid, p.rank, p.thread(phase.thread), phase.task)
                + (phase.depth, parent, phase.start_ns + p.offset_ns, duration_ns(phase))
                + (phase.is_automatic, phase.closed)
            )
    return make_dataframe(PHASES, rows)


def build_sites(processes: Sequence[Process]) -> pd.DataFrame:
    """Build the table of sites, the costliest first; blocks that were added up count too."""
    sums: dict[tuple[Any, ...], SiteSum] = {}
    for p in processes:
        columns = p.history.regions.columns
        for numbers in group_rows(columns.site, columns.manager, columns.form):
            first = p.history.regions[int(numbers[0])]
            sums.setdefault((*p.place(first.site), first.manager, first.form), SiteSum()).add_regions(p, numbers)
        for fold in p.contents.folds:
            site = p.contents.sites.get(fold.site)
            if site is not None and site.internal and not p.include_torch:
                continue
            manager = MANAGERS.get(fold.manager & ~ACTION_MASK)
            if manager is None:
                continue
            form = "call" if fold.manager == SET_GRAD_ENABLED | CONSTRUCT else site.form if site else "with"
            sums.setdefault((*p.place(fold.site), manager, form), SiteSum()).add_fold(p, fold)
    costliest = sorted(sums.items(), key=lambda item: -item[1].total_ns)
    return make_dataframe(SITES, [(*key, *row.cells()) for key, row in costliest])


def build_calls(processes: Sequence[Process]) -> pd.DataFrame:
    """Build the table of calls of probed functions; a generator or coroutine is one call."""
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
                + returned.get(c.key, (None,) * len(RETURNS_FIELDS))
            )
    return make_dataframe(CALLS, rows)
