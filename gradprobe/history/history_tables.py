"""Tables of a history: the regions and transitions that were read one by one, together with those of the runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

from gradprobe.history import region_table, transition_table
from gradprobe.history.edge_pairs import Column
from gradprobe.history.region_table import RegionColumns, RegionTable, TextColumn, make_column
from gradprobe.history.regions import RegionBuilder
from gradprobe.history.regular_blocks import RegularBlocks
from gradprobe.history.regular_runs import find_blocks
from gradprobe.history.transition_table import TransitionColumns, TransitionTable
from gradprobe.recording.contents import Site
from gradprobe.recording.events import ACTION_MASK, MANAGERS, NOWHERE, EventBlock

_Columns = TypeVar("_Columns", RegionColumns, TransitionColumns)

_MANAGER_NAMES = [MANAGERS.get(4 * number, "") for number in range(max(MANAGERS) // 4 + 1)]


class HistoryTables:
    """Tables of regions and transitions, and the number that each block of a run has in them."""

    def __init__(
        self,
        builder: RegionBuilder,
        events: EventBlock,
        blocks: RegularBlocks | None,
        sites: Mapping[int, Site],
        names: Mapping[int, str],
    ) -> None:
        self._builder, self._sites, self._names = builder, sites, names
        self._shown = np.zeros(0, np.int64)
        self._number_of_block = np.zeros(0, np.int32)
        self._transition_sites = np.zeros(0, np.int64)
        if blocks is not None:
            self._list_shown(blocks)
        self.regions = self._build_regions(events, blocks)
        length = len(builder.transitions) + 2 * len(self._shown)
        self.transitions = TransitionTable(length, self.regions, self._list_transitions, self._list_sites)

    def list_numbers(self, blocks: Column) -> Column:
        """Return the numbers of the regions that blocks of runs became."""
        numbers: Column = self._number_of_block[blocks]
        return numbers

    def _list_shown(self, blocks: RegularBlocks) -> None:
        """List the blocks of runs that are shown, the run of each, and its transitions."""
        run_of = np.full(len(blocks.enters), -1, np.int32)
        for number, taken in enumerate(self._builder.runs):
            run_of[slice(*find_blocks(blocks, taken.run))] = number
        self._shown = shown = np.flatnonzero((run_of >= 0) & blocks.visible)
        self._run_of = run_of[shown]
        enters, exits = blocks.enters[shown], blocks.exits[shown]
        self._transition_rows = np.concatenate([blocks.rows[enters], blocks.rows[exits]])
        self._transition_sites = np.concatenate([blocks.enter_sites[shown], blocks.exit_sites[shown]])
        self._exit_modes = blocks.before[exits], blocks.after[exits]

    def _build_regions(self, events: EventBlock, blocks: RegularBlocks | None) -> RegionTable:
        found, shown = self._builder.found, self._shown
        rows, start = np.array(self._builder.region_rows, np.int64), make_column(region.start_ns for region in found)
        if blocks is not None and len(shown):
            enter_rows = self._transition_rows[: len(shown)]
            rows, start = np.concatenate([rows, enter_rows]), np.concatenate([start, events.time_ns[enter_rows]])
        order = np.argsort(rows, kind="stable")
        order = order[np.argsort(start[order], kind="stable")]
        number = np.empty(len(order), np.int32)
        number[order] = np.arange(len(order), dtype=np.int32)
        for region, its_number in zip(found, number.tolist(), strict=False):
            region.number = its_number
        columns = region_table.list_columns(found)
        if blocks is not None:
            self._number_of_block = np.full(len(blocks.enters), -1, np.int32)
            self._number_of_block[shown] = number[len(found) :]
        if blocks is not None and len(shown):
            columns = _join(columns, self._list_blocks(events, blocks), order)
        else:
            columns = _join(columns, None, order)
        return RegionTable(columns, {region.number: region for region in found})

    def _list_blocks(self, events: EventBlock, blocks: RegularBlocks) -> RegionColumns:
        """Return the columns of the blocks of all runs."""
        shown, runs, run_of = self._shown, self._builder.runs, self._run_of
        enters, size = blocks.enters[shown], len(shown)
        enter_rows, exit_rows = np.split(self._transition_rows, 2)
        enter_sites = self._transition_sites[:size]
        nothing, all_false = np.zeros(size, np.uint8), np.zeros(size, bool)
        around = np.array([-1 if run.parent is None else run.parent.number for run in runs], np.int32)
        parents = blocks.parents[shown]
        start_ns, end_ns = events.time_ns[enter_rows], events.time_ns[exit_rows]
        start_nodes, end_nodes = events.nodes[enter_rows], events.nodes[exit_rows]
        return RegionColumns(
            manager=TextColumn((events.op[enter_rows] & ~np.uint8(ACTION_MASK)) >> 2, _MANAGER_NAMES),
            form=self._name_forms(enter_sites),
            site=np.where(enter_sites == NOWHERE, events.site[exit_rows], enter_sites),
            thread=np.array([run.thread for run in runs], np.uint32)[run_of],
            task=TextColumn(nothing, [None]),
            start_ns=start_ns,
            end_ns=end_ns,
            before=blocks.before[enters],
            inside=blocks.after[enters],
            parent=np.where(parents < 0, around[run_of], self._number_of_block[parents]),
            depth=np.array([run.depth for run in runs], np.int32)[run_of] + blocks.depths[shown],
            internal=blocks.internal[enters],
            start_nodes=start_nodes,
            end_nodes=end_nodes,
            child_ns=self._sum_children(parents, end_ns - start_ns),
            child_nodes=self._sum_children(parents, end_nodes - start_nodes),
            error=self._name_errors(events.extra[exit_rows]),
            is_irregular=all_false,
            is_reentered=all_false,
            closed=~all_false,
            phase=TextColumn.of(run.phase for run in runs).take(run_of),
            is_shared=all_false,
        )

    def _sum_children(self, parents: Column, values: Column) -> Column:
        """Return for each block the sum over the blocks directly inside."""
        sums = np.zeros(len(self._number_of_block), np.int64)
        is_inside = parents >= 0
        np.add.at(sums, parents[is_inside], values[is_inside])
        found: Column = sums[self._shown]
        return found

    def _name_forms(self, sites: Column) -> TextColumn:
        numbers, inverse = np.unique(sites, return_inverse=True)
        known = map(self._sites.get, numbers.tolist())
        return TextColumn.of("with" if site is None else site.form for site in known).take(inverse)

    def _name_errors(self, exceptions: Column) -> TextColumn:
        numbers, inverse = np.unique(exceptions, return_inverse=True)
        return TextColumn.of(self._names.get(number, "") for number in numbers.tolist()).take(inverse)

    def _list_sites(self) -> Column:
        """Return the sites of all transitions, in no particular order."""
        return np.concatenate([[change.site for change in self._builder.transitions], self._transition_sites])

    def _list_transitions(self) -> TransitionColumns:
        columns = transition_table.list_columns(self._builder.transitions)
        if not len(self._shown):
            return columns
        of, number = self.regions.columns, self._number_of_block[self._shown]
        both = np.concatenate([number, number])
        exit_before, exit_after = self._exit_modes
        others = TransitionColumns(
            time_ns=np.concatenate([of.start_ns[number], of.end_ns[number]]),
            thread=of.thread[both],
            task=of.task.take(both),
            manager=of.manager.take(both),
            form=of.form.take(both),
            event=TextColumn(np.repeat(np.arange(2, dtype=np.uint8), len(number)), ["enter", "exit"]),
            before=np.concatenate([of.before[number], exit_before]),
            after=np.concatenate([of.inside[number], exit_after]),
            depth=of.depth[both],
            region=both,
            site=self._transition_sites,
            phase=of.phase.take(both),
        )
        rows = np.concatenate([np.array(self._builder.transition_rows, np.int64), self._transition_rows])
        return _join(columns, others, np.argsort(rows, kind="stable"))


def _join(one: _Columns, other: _Columns | None, order: Column) -> _Columns:
    """Return the columns of one or two tables as one, in another order, and take them out of those."""
    joined: dict[str, Any] = {}
    for column in fields(one):
        parts = [getattr(table, column.name) for table in (one, other) if table is not None]
        if isinstance(parts[0], TextColumn):
            joined[column.name] = TextColumn.joined(parts).take(order)
        else:
            # A column without rows does not decide the type of the others.
            joined[column.name] = np.concatenate([part for part in parts if len(part)] or parts)[order]
        for table in (one, other):
            if table is not None:
                setattr(table, column.name, None)  # columns of a million rows would be there twice at the end
    return type(one)(**joined)
