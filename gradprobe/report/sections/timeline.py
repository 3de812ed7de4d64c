"""Timeline of a recording: the blocks over time, in a lane per process, thread and task.

The timeline has at most ``MAX_BARS`` bars for any number of blocks: it draws the longest ones individually and sums up
the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradprobe._counted_nouns import pluralize
from gradprobe.history.edge_pairs import Column
from gradprobe.history.process import Process
from gradprobe.history.process_history import History
from gradprobe.history.records import MODES, Region, ThreadTimeline
from gradprobe.history.region_table import RegionColumns, add_up
from gradprobe.history.row_groups import group_rows
from gradprobe.recording.events import mode_name
from gradprobe.recording.rows import Modes
from gradprobe.report.document import Chart
from gradprobe.report.units import escape_unprintable, format_count, format_duration, format_location, truncate_start
from gradprobe.tables.region_cells import duration_ns

MAX_BARS = 3_000
MAX_LANES = 40
ROWS_PER_LANE = 6
"""Maximum number of rows of a lane; blocks that are nested deeper are drawn in the last row."""

_MAX_CHANGES = 60
"""Number of mode changes of a thread up to which its background shows them."""

_TEXT_WIDTH = 200

_UNITS = (("s", 1e9), ("ms", 1e6), ("us", 1e3), ("ns", 1.0))


@dataclass
class _Lane:
    """The regions of one thread or asyncio task of a process, by their numbers."""

    name: str
    process: Process
    regions: Column = field(default_factory=lambda: np.zeros(0, np.int64))
    thread: ThreadTimeline | None = None
    """Timeline of the thread; None for the lane of a task."""

    @property
    def columns(self) -> RegionColumns:
        """Columns of the regions of the process."""
        return self.process.history.regions.columns

    @property
    def rows(self) -> int:
        """Number of rows that nested regions take."""
        return 1 + int(_list_rows(self).max(initial=0))


def build_timeline(processes: Sequence[Process]) -> tuple[Chart | None, list[str]]:
    """Build the chart and the sentences on what it leaves out; the chart is None for an empty recording."""
    lanes = _collect_lanes(processes)
    # The first thread of each process is always shown, so that the others can be compared with it.
    first = {id(lane.process): lane for lane in reversed(lanes)}
    chosen = sorted(lanes, key=lambda lane: (first[id(lane.process)] is not lane, -len(lane.regions)))[:MAX_LANES]
    shown = sorted(chosen, key=lanes.index)
    whole = sum(len(lane.regions) for lane in shown)
    end = max((p.history.end_ns + p.offset_ns for p in processes), default=0)
    if not shown or not end:
        return None, []
    unit, scale = next((unit, scale) for unit, scale in _UNITS if end >= scale)
    bars, sentences = _build_bars(shown, whole, end)
    if len(lanes) > len(shown):
        left = sum(len(lane.regions) for lane in lanes) - whole
        sentences.append(
            f"{pluralize(len(lanes) - len(shown), 'thread or task', 'threads or tasks')} with the fewest blocks, "
            f"{pluralize(left, 'block')} in total, have no lane."
        )
    rows = [{**bar, "start": bar["start"] / scale, "end": bar["end"] / scale} for bar in bars]
    caption = "Modes over time, one lane per thread and task; nested blocks are drawn below their outer ones."
    return Chart("timeline", "timeline", caption, rows, unit), sentences


def _collect_lanes(processes: Sequence[Process]) -> list[_Lane]:
    found: dict[tuple[int, int, str | None], _Lane] = {}
    for number, process in enumerate(processes):
        where = f"{process.pid} " if len(processes) > 1 else ""
        for thread in process.history.timelines:
            name = where + escape_unprintable(process.thread(thread.thread))
            found[number, thread.thread, None] = _Lane(name, process, thread=thread)
        regions = process.history.regions
        for numbers in group_rows(regions.columns.thread, regions.columns.task):
            region = regions[int(numbers[0])]
            key = number, region.thread, region.task
            if key not in found:
                name = escape_unprintable(f"{process.thread(region.thread)} {region.task or ''}".rstrip())
                found[key] = _Lane(where + name, process)
            found[key].regions = numbers
    order = {key: index for index, key in enumerate(found)}
    first = {key[:2]: order[key] for key in reversed(found)}
    return [found[key] for key in sorted(found, key=lambda key: (first[key[:2]], order[key]))]


def _list_rows(lane: _Lane) -> Column:
    """Return the row in which each region of a lane is drawn."""
    return np.minimum(lane.columns.depth[lane.regions], ROWS_PER_LANE - 1)


def _build_bars(lanes: list[_Lane], whole: int, end: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Build the bars in the order in which they are painted, in nanoseconds on the common axis."""
    bars: list[dict[str, Any]] = []
    rows = sum(lane.rows for lane in lanes)
    longest, slots = _select_longest(lanes, whole), max((MAX_BARS // 2 - len(lanes)) // rows, 10)
    top = 0
    for number, lane in enumerate(lanes):
        base = {"lane": number, "name": lane.name}
        bars += [{**base, "row": top, **bar} for bar in _build_background(lane)]
        row_of = _list_rows(lane)
        if longest is None:
            kept = lane.regions
        else:
            is_long = longest[number]
            kept, row_of_kept = lane.regions[is_long], row_of[is_long]
            bars += [
                {**base, "row": top + row, **bar}
                for row, bar in _sum_up(lane, lane.regions[~is_long], row_of[~is_long], slots, end)
            ]
            row_of = row_of_kept
        regions = lane.process.history.regions.at(kept)
        bars += [
            {**base, "row": top + row, **_build_bar(lane.process, region)}
            for row, region in zip(row_of.tolist(), regions, strict=True)
        ]
        top += lane.rows
    if longest is None:
        return bars, []
    drawn = sum(int(is_long.sum()) for is_long in longest)
    return bars, [
        f"The timeline draws the {drawn:,} longest of {whole:,} blocks individually. The others are summed up in "
        f"intervals of {format_duration(end / slots)}, in the colour of the mode with the most time."
    ]


def _select_longest(lanes: list[_Lane], whole: int) -> list[Column] | None:
    """Return for each lane which of its blocks to draw individually; None for all of them."""
    if whole <= MAX_BARS:
        return None
    durations = np.concatenate([lane.columns.duration_ns[lane.regions] for lane in lanes])
    is_long = np.zeros(whole, bool)
    is_long[np.argsort(-durations, kind="stable")[: MAX_BARS // 2]] = True
    return np.split(is_long, np.cumsum([len(lane.regions) for lane in lanes])[:-1])


def _build_background(lane: _Lane) -> Iterator[dict[str, Any]]:
    """Yield bars of the modes that the thread was in, to be painted over by its blocks.

    For a thread that changed modes too often to draw, it is the mode that the thread began in.
    """
    thread = lane.thread
    if thread is None:
        return
    history, offset = lane.process.history, lane.process.offset_ns
    modes = _find_modes(history, thread)
    if not modes:
        return
    ended = history.end_ns if thread.ended_ns is None else thread.ended_ns
    starts = [at for at, previous in zip(modes, [None, *modes.values()], strict=False) if modes[at] != previous]
    for start, end in zip(starts, [*starts[1:], ended], strict=True):
        mode = mode_name(*modes[start])
        if end > start:
            yield {"start": start + offset, "end": end + offset, "mode": mode, "what": f"thread in {mode}"} | (
                {"took": format_duration(end - start), "own": "-", "nodes": "-", "blocks": 0}
            )


def _find_modes(history: History, thread: ThreadTimeline) -> dict[int, Modes]:
    """Return the modes of a thread by the time at which each began; only the first of one that changed modes too often."""
    of = history.regions.columns
    changing = np.flatnonzero((of.thread == thread.thread) & (of.before != of.inside))
    if len(changing) > _MAX_CHANGES:  # so many that their transitions need not be listed
        return {thread.began_ns: MODES[of.before[changing[of.start_ns[changing].argmin()]]]}
    columns = history.transitions.columns
    changes = np.flatnonzero((columns.thread == thread.thread) & (columns.before != columns.after))
    state = MODES[columns.before[changes[0]]] if len(changes) else thread.state
    if state is None:
        return {}
    later = history.transitions.at(changes.tolist()) if len(changes) <= _MAX_CHANGES else ()
    return {thread.began_ns: state, **{change.time_ns: change.after for change in later}}


def _build_bar(process: Process, region: Region) -> dict[str, Any]:
    took = duration_ns(region)
    file, line, function = process.place(region.site)
    within = f" in {escape_unprintable(function)}" if function else ""
    return {
        "start": region.start_ns + process.offset_ns,
        "end": region.start_ns + took + process.offset_ns,
        "mode": mode_name(*region.inside),
        "what": truncate_start(f"{region.manager} at {format_location(file, line)}{within}", _TEXT_WIDTH),
        "took": format_duration(took),
        "own": format_duration(max(took - region.child_ns, 0)),
        "nodes": format_count(region.nodes),
        "blocks": 1,
    }


def _sum_up(lane: _Lane, numbers: Column, rows: Column, slots: int, end: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield a bar, and its row, for the regions of each row that began in the same interval of time."""
    columns = lane.columns
    starts = columns.start_ns[numbers] + lane.process.offset_ns
    fits = len(starts) == 0 or int(abs(starts).max()) * slots < 1 << 62
    slot = (starts if fits else starts.astype(object)) * slots // end
    for group in sorted(group_rows(rows, slot), key=lambda group: (int(rows[group[0]]), int(slot[group[0]]))):
        yield int(rows[group[0]]), _build_sum(lane, numbers[group])


def _build_sum(lane: _Lane, numbers: Column) -> dict[str, Any]:
    """Build the bar of several regions."""
    columns, offset = lane.columns, lane.process.offset_ns
    took, inside = columns.duration_ns[numbers], columns.inside[numbers]
    counted = numbers[columns.counts_nodes[numbers]]
    firsts = np.unique(inside, return_index=True)[1]
    ns_by_mode = {mode_name(*MODES[code]): add_up(took[inside == code]) for code in inside[np.sort(firsts)].tolist()}
    return {
        "start": int(columns.start_ns[numbers].min()) + offset,
        "end": max(int(columns.end_ns[numbers].max()) + offset, 0),
        "mode": max(ns_by_mode, key=lambda mode: ns_by_mode[mode]),
        "what": f"{len(numbers):,} short blocks: {', '.join(sorted(ns_by_mode))}",
        "took": format_duration(sum(ns_by_mode.values())),
        "own": "-",
        "nodes": format_count(add_up(columns.nodes[counted]) if len(counted) else None),
        "blocks": len(numbers),
    }
