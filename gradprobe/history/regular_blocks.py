"""Regular blocks of a recording, found in its columns: nearly all blocks of a long one need no reading row by row.

A block is regular if it is entered and exited by one thread, its object was not open before, and all inside it is regular
and finds the modes that the event before it left. Such a block changes nothing but the time of its thread, so that the
interpreter takes a run of them at once. All else it reads event by event: plain calls of the program, tasks, probed calls,
threads, and blocks around any of these.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradprobe.history.edge_pairs import Column, match_pairs
from gradprobe.recording.constructor_pairs import ConstructedBlock
from gradprobe.recording.contents import Contents
from gradprobe.recording.events import (
    ACTION_MASK,
    CALL,
    CONSTRUCT,
    ENTER,
    EXIT,
    INFERENCE_MODE,
    MANAGERS,
    NOT_COUNTED,
    NOT_READ,
    NOWHERE,
    PHASE,
    SET_GRAD_ENABLED,
    TALLY,
    EventBlock,
)

MIN_EVENTS = 16
"""Number of events from which on a run is taken at once; for fewer it costs more than to read them."""

_MAX_SITE = 1 << 24
_MAX_TIME, _MAX_NODES = 1 << 62, 1 << 40
"""Ranges of site numbers, times and nodes beyond which no block counts as regular; only edited files have such."""

_FORMS = ("with", "decorator", "generator", "indirect")


@dataclass(frozen=True)
class Run:
    """Events of one thread, from position ``first`` to ``last`` of the sequence, that are regular blocks side by side."""

    first: int
    last: int


@dataclass(frozen=True)
class RegularBlocks:
    """Regular blocks and the sequence of events in which they are: those of each thread, one thread after the other."""

    rows: Column
    """Row of each event of the sequence among all events."""
    before: Column
    after: Column
    """Modes before and after each event of the sequence: grad mode, and inference mode in the second bit."""
    internal: Column
    """True for the events of PyTorch's own code."""
    enters: Column
    exits: Column
    """Positions in the sequence at which each block begins and ends."""
    parents: Column
    """Number of the block around each block, -1 if it is directly in a run."""
    depths: Column
    enter_sites: Column
    exit_sites: Column
    """Sites of the transitions at which each block begins and ends."""
    shows_internal: bool
    """True if blocks of PyTorch's own code are shown."""
    runs: list[Run]

    @cached_property
    def visible(self) -> Column:
        """True for the blocks that are shown."""
        return ~self.internal[self.enters] | self.shows_internal

    @property
    def taken_rows(self) -> Column:
        """Rows of all events that are in runs."""
        return np.concatenate([self.rows[run.first : run.last + 1] for run in self.runs] or [self.rows[:0]])


def find_regular_blocks(
    events: EventBlock,
    contents: Contents,
    constructed: Mapping[int, ConstructedBlock],
    skipped: Collection[int],
    *,
    include_torch: bool,
) -> RegularBlocks | None:
    """Find the regular blocks among ``events``, None if there are none.

    ``constructed`` and ``skipped`` are the blocks that began with a constructor and the rows to leave out.
    """
    if len(events) < MIN_EVENTS or 0 in contents.names or not _is_in_range(events):
        return None
    found = _Search(events, contents, constructed, skipped, include_torch=include_torch).find()
    return found if found.runs else None


def _is_in_range(events: EventBlock) -> bool:
    times, nodes = events.time_ns, events.nodes
    return (
        int(events.site.max()) < _MAX_SITE
        and int(times.max()) - int(times.min()) < _MAX_TIME
        and max(abs(int(times.max())), abs(int(times.min()))) < _MAX_TIME
        and max(abs(int(nodes.max())), abs(int(nodes.min()))) < _MAX_NODES
    )


class _Search:
    """Search for regular blocks; its columns have one value per event of the sequence."""

    def __init__(
        self,
        events: EventBlock,
        contents: Contents,
        constructed: Mapping[int, ConstructedBlock],
        skipped: Collection[int],
        *,
        include_torch: bool,
    ) -> None:
        self._events, self._include_torch = events, include_torch
        subject = events.op & ~np.uint8(ACTION_MASK)
        is_used = (events.op < TALLY) | (subject == PHASE)
        is_used[list(skipped)] = False
        rows = np.flatnonzero(is_used).astype(np.int32)
        self._rows = rows[np.argsort(events.thread[rows], kind="stable")]
        self._op = events.op[self._rows]
        self._subject = subject[self._rows]
        self._thread = events.thread[self._rows]
        self._state = events.state[self._rows]
        self._site = events.site[self._rows]
        self._extra = events.extra[self._rows]
        self._partner = np.full(len(self._rows), -1, np.int32)
        self._place_constructed(constructed)
        is_manager = np.isin(self._subject, list(MANAGERS))
        action = self._op & ACTION_MASK
        self._is_enter, self._is_exit = is_manager & (action == ENTER), is_manager & (action == EXIT)
        sites = {number: site for number, site in contents.sites.items() if 0 <= number < _MAX_SITE}
        self._internal = _select(self._site, [n for n, site in sites.items() if site.internal])
        self._is_indirect = _select(self._site, [n for n, site in sites.items() if site.form == "indirect"])
        self._has_unknown_form = _select(self._site, [n for n, site in sites.items() if site.form not in _FORMS])
        self._is_read = (self._state & 3 != NOT_READ) & (self._state >> 2 & 3 != NOT_READ)
        is_call = (self._subject == SET_GRAD_ENABLED) & (action >= CONSTRUCT)
        self._is_call = is_call & self._is_read & self._internal & (not include_torch)

    def _place_constructed(self, constructed: Mapping[int, ConstructedBlock]) -> None:
        """Give the blocks that began with a constructor its modes, and their own site."""
        enters = np.array(list(constructed), np.int64)
        constructors = np.array([begun.constructor for begun in constructed.values()], np.int64)
        position = np.full(len(self._events), -1, np.int32)
        position[self._rows] = np.arange(len(self._rows), dtype=np.int32)
        self._constructed = at = position[enters]
        self._constructors = constructors
        self._position = position
        self._state[at] = self._events.state[constructors]
        self._extra[at] = self._events.extra[constructors]
        self._site[at] = [begun.site for begun in constructed.values()]

    def find(self) -> RegularBlocks:
        enters, exits, are_fit = self._match()
        before, after = self._read_modes(enters, exits)
        is_linked = self._find_links(before, after)
        are_fit &= (after[exits] == before[enters]) | ~self._internal[enters]
        is_member, kept, parents, depths = self._find_nested(enters, exits, are_fit, is_linked)
        enters, exits = enters[kept], exits[kept]
        internal = self._internal.copy()
        internal[exits] = internal[enters]
        enter_sites = self._site[enters]
        is_indirect = self._is_indirect[exits] & (enter_sites != NOWHERE)
        return RegularBlocks(
            rows=self._rows,
            before=before,
            after=after,
            internal=internal,
            enters=enters,
            exits=exits,
            parents=parents,
            depths=depths,
            enter_sites=enter_sites,
            exit_sites=np.where(is_indirect, enter_sites, self._site[exits]),
            shows_internal=self._include_torch,
            runs=_find_runs(is_member, is_linked),
        )

    def _match(self) -> tuple[Column, Column, Column]:
        """Return where blocks begin and end, as far as they nest, and whether each of them may be regular by itself."""
        edges = np.flatnonzero(self._is_enter | self._is_exit).astype(np.int32)
        partner = match_pairs(self._thread[edges], self._is_enter[edges]).partner
        is_begin = (partner >= 0) & self._is_enter[edges]
        enters, exits = edges[is_begin], edges[partner[is_begin]]
        are_fit = self._match_objects(edges)[enters] & (self._partner[enters] == exits)
        are_fit &= self._subject[enters] == self._subject[exits]
        are_fit &= self._is_read[enters]
        are_fit &= ~self._has_unknown_form[enters] & ~self._has_unknown_form[exits]
        are_fit &= ~np.isin(self._thread[enters], self._find_threads_with_tasks())
        begun = np.flatnonzero(np.isin(enters, self._constructed))
        are_fit[begun] &= self._are_constructed_in_order(enters[begun])
        return enters, exits, are_fit

    def _match_objects(self, edges: Column) -> Column:
        """Match edges by their object; return for each enter whether only its own exit follows while the object is open."""
        rows = np.sort(self._rows[edges])
        keys = self._events.key[rows]
        order = np.argsort(keys, kind="stable")
        at, keys = self._position[rows[order]], keys[order]
        del rows, order
        nesting = match_pairs(keys, self._is_enter[at])
        self._partner[at] = np.where(nesting.partner >= 0, at[nesting.partner], -1)
        is_alone = np.zeros(len(self._rows), bool)
        is_alone[at] = (nesting.depth == 0) & (nesting.partner == np.arange(1, len(at) + 1))
        return is_alone

    def _find_threads_with_tasks(self) -> Column:
        """Return the threads with blocks or calls of asyncio tasks, which do not nest by thread."""
        is_begin = (self._op & ACTION_MASK != EXIT) & (self._subject <= CALL) & (self._extra != 0)
        return np.unique(self._thread[is_begin])

    def _are_constructed_in_order(self, enters: Column) -> Column:
        """Return whether the constructor of each block came at a time before it, and counted nodes as it did."""
        of = dict(zip(self._constructed.tolist(), self._constructors.tolist(), strict=True))
        begun = np.array([of[at] for at in enters.tolist()], np.int64)
        times, nodes, rows = self._events.time_ns, self._events.nodes, self._rows[enters]
        in_order: Column = times[begun] <= times[rows]
        in_order &= (nodes[begun] == NOT_COUNTED) == (nodes[rows] == NOT_COUNTED)
        return in_order

    def _read_modes(self, enters: Column, exits: Column) -> tuple[Column, Column]:
        """Return the modes before and after each event; a mode that was not read is that of the event before."""
        modes = []
        for shift in (0, 2):
            read = np.stack([self._state >> shift & 3, self._state >> shift + 4 & 3], axis=1)
            # What inference mode leaves is not read: it is what its block found.
            at = (self._subject[exits] == INFERENCE_MODE) & (read[exits, 1] == NOT_READ)
            read[exits[at], 1] = read[enters[at], 0]
            flat = read.ravel()
            known = np.where(flat != NOT_READ, np.arange(len(flat), dtype=np.int32), 0)
            filled = flat[np.maximum.accumulate(known)] != 0
            modes.append(filled.reshape(-1, 2).astype(np.uint8))
        both = modes[0] | modes[1] << 1
        return np.ascontiguousarray(both[:, 0]), np.ascontiguousarray(both[:, 1])

    def _find_links(self, before: Column, after: Column) -> Column:
        """Return whether each event follows in order on the one before it, in the modes that that one left."""
        times, nodes = self._events.time_ns[self._rows], self._events.nodes[self._rows]
        is_linked = np.zeros(len(self._rows), bool)
        is_linked[1:] = (
            (self._thread[1:] == self._thread[:-1])
            & (times[1:] >= times[:-1])
            & ((nodes[1:] == NOT_COUNTED) == (nodes[:-1] == NOT_COUNTED))
            & (before[1:] == after[:-1])
        )
        begun = self._constructed[self._constructed > 0]
        is_linked[begun] &= self._events.time_ns[self._constructors[self._constructed > 0]] >= times[begun - 1]
        cuts = self._find_cuts()
        if len(cuts):
            number = np.searchsorted(cuts, self._rows)
            is_linked[1:] &= number[1:] == number[:-1]
        return is_linked

    def _find_cuts(self) -> Column:
        """Return the rows of events that reach into another thread, by the exit of its block or the end of its phase."""
        is_exit = self._is_exit & (self._partner >= 0)
        foreign = is_exit.copy()
        foreign[is_exit] = self._thread[is_exit] != self._thread[self._partner[is_exit]]
        rows = self._rows[foreign].tolist()
        began: dict[int, int] = {}
        phases = np.sort(self._rows[self._subject == PHASE])
        columns = (phases, self._events.op[phases], self._events.key[phases], self._events.thread[phases])
        for row, op, key, thread in zip(*(column.tolist() for column in columns), strict=True):
            if op & ACTION_MASK != EXIT:
                began.setdefault(key, thread)
            elif began.pop(key, thread) != thread:
                rows.append(row)
        return np.array(sorted(rows), np.int64)

    def _find_nested(
        self, enters: Column, exits: Column, are_fit: Column, is_linked: Column
    ) -> tuple[Column, Column, Column, Column]:
        """Return which events are regular; which blocks are, the block around each, and its depth among them.

        A block of the program within one of PyTorch's own code is not.
        """
        while True:
            is_broken = ~self._is_call
            is_broken[enters[are_fit]] = is_broken[exits[are_fit]] = False
            breaks = np.cumsum(is_broken | ~is_linked, dtype=np.int32)
            # What comes before a block may be anything: whether its first event is linked does not count.
            are_regular = are_fit & (breaks[exits] == breaks[enters])
            kept = np.flatnonzero(are_regular)
            depths, parents = _nest(enters[kept], exits[kept])
            internal = self._internal[enters[kept]]
            is_inside_out = (parents >= 0) & ~internal & internal[parents]
            if not is_inside_out.any():
                break
            are_fit = are_fit.copy()
            are_fit[kept[is_inside_out]] = False
        is_member = self._is_call.copy()
        edges = np.zeros(len(self._rows) + 1, np.int32)
        edges[enters[kept]] += 1
        edges[exits[kept] + 1] -= 1
        is_member |= np.cumsum(edges[:-1]) > 0
        return is_member, kept, parents, depths


def _select(numbers: Column, chosen: Collection[int]) -> Column:
    """Return which of ``numbers``, of sites, are among the chosen ones."""
    table = np.zeros(int(numbers.max(initial=0)) + 1, bool)
    table[[n for n in chosen if n < len(table)]] = True
    selected: Column = table[numbers]
    return selected


def _nest(enters: Column, exits: Column) -> tuple[Column, Column]:
    """Return the depth of each block and the number of the one around it, -1 if there is none."""
    edges = np.concatenate([enters, exits])
    order = np.argsort(edges, kind="stable")
    step = np.concatenate([np.ones(len(enters), np.int32), np.full(len(exits), -1, np.int32)])
    depth = np.empty(len(edges), np.int32)
    depth[order] = np.cumsum(step[order])
    depths = depth[: len(enters)] - 1
    parents = np.full(len(enters), -1, np.int32)
    by_depth = np.argsort(depths, kind="stable")
    starts = np.searchsorted(depths[by_depth], np.arange(int(depths.max(initial=-1)) + 2))
    for first, middle, last in zip(starts, starts[1:], starts[2:], strict=False):
        outer, inner = by_depth[first:middle], by_depth[middle:last]
        parents[inner] = outer[np.searchsorted(outer, inner) - 1]
    return depths, parents


def _find_runs(is_member: Column, is_linked: Column) -> list[Run]:
    """Return the longest runs of regular events that follow on each other."""
    continues = np.zeros(len(is_member) + 1, bool)
    continues[1:-1] = is_member[1:] & is_member[:-1] & is_linked[1:]
    firsts = np.flatnonzero(is_member & ~continues[:-1])
    lasts = np.flatnonzero(is_member & ~continues[1:])
    is_long = lasts - firsts + 1 >= MIN_EVENTS
    return [Run(*ends) for ends in zip(firsts[is_long].tolist(), lasts[is_long].tolist(), strict=True)]
