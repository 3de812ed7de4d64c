"""DataFrames of a recording, with the columns that ``columns.py`` defines.

A row is a tuple of values in the order of the columns; what is missing is None or NaN. Operators may be as many as there
are regions of the program, so that their table is made by its columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from gradprobe.history.process import Process
from gradprobe.history.records import Region
from gradprobe.history.region_table import TextColumn
from gradprobe.history.row_groups import group_rows
from gradprobe.recording.events import ACTION_MASK, CONSTRUCT, MANAGERS, SET_GRAD_ENABLED
from gradprobe.recording.op_rows import RETURNS_FIELDS, OpCounts
from gradprobe.tables.call_columns import CALLS
from gradprobe.tables.column_frames import (
    Cells,
    OptionalColumn,
    join_cells,
    list_places,
    list_threads,
    make_dataframe,
    make_frame,
    repeat_cell,
)
from gradprobe.tables.operator_columns import BIRTHS, OPS
from gradprobe.tables.phase_columns import PHASES
from gradprobe.tables.region_cells import duration_ns
from gradprobe.tables.region_columns import SITES
from gradprobe.tables.site_sums import SiteSum


def build_ops(processes: Sequence[Process]) -> pd.DataFrame:
    """Build the table of operators; those that ran in no region have none."""
    parts = [_list_ops(p) for p in processes if len(p.op_totals.ops)]
    return make_frame(OPS, join_cells(parts)) if parts else make_dataframe(OPS, ())


def _list_ops(p: Process) -> list[Cells]:
    ops = p.op_totals.ops
    of, size = ops.columns, len(ops)
    counts = dict(zip(OpCounts._fields, of.counts, strict=True))
    is_saved = np.full(size, p.counts_saved)
    return [
        OptionalColumn(of.region.astype(np.int64) + p.first_region, of.region >= 0),
        TextColumn(of.name, [name.op for name in ops.names]),
        *list_places(p, of.site),
        counts["calls"],
        counts["nodes"],
        OptionalColumn(of.saved_bytes, is_saved),
        counts["version_bumps"],
        counts["counters_created"],
        counts["tracked_views"],
        counts["inference_outputs"],
        counts["normal_outputs"],
        counts["untracked_views"],
        OptionalColumn(of.graph_bytes, is_saved),
        counts["uncounted_writes"],
        counts["hooked"],
        counts["failed_version_reads"],
        counts["normal_without_counter"],
        counts["inference_with_counter"],
        TextColumn(of.name, [name.module for name in ops.names]),
        TextColumn(of.name, [name.node for name in ops.names]),
        TextColumn(of.name, [name.phase for name in ops.names]),
        repeat_cell(p.pid, size),
        repeat_cell(p.rank, size),
        list_threads(p, of.thread),
    ]


def _region_number(p: Process, region: Region | None) -> int | None:
    return None if region is None else p.first_region + region.number


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
