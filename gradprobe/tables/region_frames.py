"""The tables of regions and transitions, or some of their rows, as DataFrames."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from gradprobe.history.edge_pairs import Column
from gradprobe.history.process import Process
from gradprobe.history.records import Region
from gradprobe.history.region_table import TextColumn, make_column
from gradprobe.tables.column_frames import (
    Cells,
    OptionalColumn,
    join_cells,
    list_places,
    list_threads,
    make_dataframe,
    make_frame,
    repeat_cell,
    take_cells,
)
from gradprobe.tables.mode_columns import TRANSITIONS
from gradprobe.tables.region_cells import RegionOperators, count_nodes, device_ns, sum_operators
from gradprobe.tables.region_columns import REGIONS

_EVERYTHING = slice(None)


def build_transitions(processes: Sequence[Process], rows: slice = _EVERYTHING) -> pd.DataFrame:
    """Build the table of transitions, or some rows of it, in the order in which they happened."""
    lengths = [len(p.history.transitions) for p in processes]
    chosen = np.arange(sum(lengths))[rows]
    if not len(chosen):
        return make_dataframe(TRANSITIONS, ())
    if len(processes) == 1:
        return make_frame(TRANSITIONS, [chosen, *_list_transitions(processes[0], chosen)])
    times = np.concatenate([p.history.transitions.columns.time_ns + p.offset_ns for p in processes])
    wanted = np.argsort(times, kind="stable")[rows]
    ends = np.cumsum(lengths)
    of = np.searchsorted(ends, wanted, side="right")
    cells = join_cells(
        [
            _list_transitions(p, wanted[of == number] - (ends[number] - lengths[number]))
            for number, p in enumerate(processes)
        ]
    )
    back = np.empty(len(of), np.int64)
    back[np.argsort(of, kind="stable")] = np.arange(len(of))
    return make_frame(TRANSITIONS, [chosen, *(take_cells(column, back) for column in cells)])


def _list_transitions(p: Process, rows: Column) -> list[Cells]:
    """Return the cells of transitions of a process, but for their order."""
    of, regions, size = p.history.transitions.columns, p.history.regions.columns, len(rows)
    before, after, region, site = of.before[rows], of.after[rows], of.region[rows], of.site[rows]
    site = np.where((site == 0) & (region >= 0), np.append(regions.site, 0)[region], site)
    return [
        of.time_ns[rows] + p.offset_ns,
        repeat_cell(p.pid, size),
        repeat_cell(p.rank, size),
        list_threads(p, of.thread[rows]),
        of.task.take(rows),
        of.manager.take(rows),
        of.form.take(rows),
        of.event.take(rows),
        (before & 1).astype(bool),
        (before >> 1).astype(bool),
        (after & 1).astype(bool),
        (after >> 1).astype(bool),
        before == after,
        of.depth[rows],
        OptionalColumn(region.astype(np.int64) + p.first_region, region >= 0),
        *list_places(p, site),
        of.phase.take(rows),
    ]


def build_regions(processes: Sequence[Process], rows: slice = _EVERYTHING) -> pd.DataFrame:
    """Build the table of regions, or some rows of it, by process and in the order of their start."""
    chosen = range(sum(len(p.history.regions) for p in processes))[rows]
    parts, first = [], 0
    for p in processes:
        size = len(p.history.regions)
        begin, end = max(chosen.start - first, 0), min(chosen.stop - first, size)
        if begin < end:
            parts.append(_list_regions(p, np.arange(begin, end)))
        first += size
    return make_frame(REGIONS, join_cells(parts)) if parts else make_dataframe(REGIONS, ())


def _list_regions(p: Process, rows: Column) -> list[Cells]:
    of, size = p.history.regions.columns, len(rows)
    parent = of.parent[rows].astype(np.int64)
    special = _Special(p, rows)
    operators = special.list_operators()
    is_counted = of.counts_nodes[rows]
    # Past the limit of a recording no backward passes are kept.
    counts_backward = is_counted & (p.counts_nodes and not p.contents.folds)
    return [
        rows + p.first_region,
        OptionalColumn(parent + p.first_region, parent >= 0),
        of.manager.take(rows),
        of.form.take(rows),
        *list_places(p, of.site[rows]),
        repeat_cell(p.pid, size),
        repeat_cell(p.rank, size),
        list_threads(p, of.thread[rows]),
        of.task.take(rows),
        of.depth[rows],
        of.start_ns[rows] + p.offset_ns,
        of.duration_ns[rows],
        of.self_ns[rows],
        special.list_device_ns(),
        *special.list_nodes(),
        *operators[:5],
        of.error.take(rows),
        of.closed[rows],
        of.before[rows] == of.inside[rows],
        special.list_texts(lambda region: ", ".join(dict.fromkeys(region.irregular))),
        *operators[5:],
        OptionalColumn(p.op_totals.backward_nodes[rows], counts_backward),
        special.list_texts(lambda region: p.compiled.get(region, "")),
        *special.list_device_cells(),
        of.phase.take(rows),
    ]


class _Special:
    """Cells of the regions that have operators, device times or an irregularity; those of all others are alike."""

    def __init__(self, p: Process, rows: Column) -> None:
        of = p.history.regions.columns
        numbers = [region.number for known in (p.op_totals.regions, p.device_times, p.compiled) for region in known]
        self._at = np.flatnonzero(np.isin(rows, numbers) | of.is_irregular[rows] | of.is_shared[rows])
        self._regions = list(p.history.regions.at(rows[self._at]))
        self._process, self._rows = p, rows

    def list_operators(self) -> list[OptionalColumn]:
        """Return the columns of ``RegionOperators``: zeros where no operators ran in an observed thread."""
        p = self._process
        is_watched = np.isin(p.history.regions.columns.thread[self._rows], list(p.watched))
        cells = [sum_operators(p, region) for region in self._regions]
        return [
            self._fill(
                np.zeros(len(self._rows), np.int64),
                is_watched & (p.counts_saved or not name.endswith("_bytes")),
                [one[index] for one in cells],
            )
            for index, name in enumerate(RegionOperators._fields)
        ]

    def list_nodes(self) -> list[OptionalColumn]:
        """Return the nodes of each region, and those that it constructed outside of regions inside."""
        of = self._process.history.regions.columns
        is_counted, nodes = of.counts_nodes[self._rows], of.nodes[self._rows]
        cells = [count_nodes(self._process, region) for region in self._regions]
        return [
            self._fill(column, is_counted, [one[index] for one in cells])
            for index, column in enumerate((nodes, nodes - of.child_nodes[self._rows]))
        ]

    def list_device_ns(self) -> Column:
        """Return the time that a device took for each region, NaN if it was not measured."""
        times = np.full(len(self._rows), np.nan)
        times[self._at] = [device_ns(self._process, region) for region in self._regions]
        return times

    def list_device_cells(self) -> list[OptionalColumn]:
        """Return the device of each region, its lag, and the growth of its memory."""
        times = [self._process.device_times.get(region) for region in self._regions]
        cells = [
            (None,) * 4 if time is None else (time.device, time.lag_ns, time.allocated_bytes, time.peak_bytes)
            for time in times
        ]
        nothing, unknown = np.zeros(len(self._rows), np.int64), np.zeros(len(self._rows), bool)
        return [self._fill(nothing, unknown, [one[index] for one in cells]) for index in range(4)]

    def list_texts(self, describe: Callable[[Region], str]) -> TextColumn:
        """Return a text for each region, which is empty for all but these."""
        texts = TextColumn.of(["", *map(describe, self._regions)])
        numbers = np.full(len(self._rows), texts.numbers[0])
        numbers[self._at] = texts.numbers[1:]
        return TextColumn(numbers, texts.texts)

    def _fill(self, values: Column, is_known: Column, cells: Sequence[int | None]) -> OptionalColumn:
        """Return a column with the cells of these regions in their places."""
        own = make_column(cell or 0 for cell in cells)
        filled, known = values.astype(object if own.dtype == object else values.dtype), is_known.copy()
        filled[self._at], known[self._at] = own, [cell is not None for cell in cells]
        return OptionalColumn(filled, known)
