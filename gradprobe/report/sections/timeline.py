"""Timeline of a recording: the blocks over time, in a lane per process, thread and task.

The timeline has at most ``MAX_BARS`` bars for any number of blocks: it draws the longest ones individually and sums up
the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gradprobe.history.process import Process
from gradprobe.history.records import Region, ThreadTimeline
from gradprobe.recording.events import mode_name
from gradprobe.report.document import Chart
from gradprobe.report.units import (
    escape_unprintable,
    format_count,
    format_duration,
    format_location,
    pluralize,
    truncate_start,
)
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
    """The regions of one thread or asyncio task of a process."""

    name: str
    process: Process
    regions: list[Region] = field(default_factory=list)
    thread: ThreadTimeline | None = None
    """Timeline of the thread; None for the lane of a task."""

    @property
    def rows(self) -> int:
        return 1 + max((_get_row(region) for region in self.regions), default=0)


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
        for region in process.history.regions:
            key = number, region.thread, region.task
            if key not in found:
                name = escape_unprintable(f"{process.thread(region.thread)} {region.task or ''}".rstrip())
                found[key] = _Lane(where + name, process)
            found[key].regions.append(region)
    order = {key: index for index, key in enumerate(found)}
    first = {key[:2]: order[key] for key in reversed(found)}
    return [found[key] for key in sorted(found, key=lambda key: (first[key[:2]], order[key]))]


def _get_row(region: Region) -> int:
    return min(region.depth, ROWS_PER_LANE - 1)


def _build_bars(lanes: list[_Lane], whole: int, end: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Build the bars in the order in which they are painted, in nanoseconds on the common axis."""
    bars: list[dict[str, Any]] = []
    rows = sum(lane.rows for lane in lanes)
    longest, slots = _select_longest(lanes, whole), max((MAX_BARS // 2 - len(lanes)) // rows, 10)
    top = 0
    for number, lane in enumerate(lanes):
        offset, base = lane.process.offset_ns, {"lane": number, "name": lane.name}
        bars += [{**base, "row": top, **bar} for bar in _build_background(lane)]
        sums: dict[tuple[int, int], _SummedBlocks] = defaultdict(_SummedBlocks)
        kept = []
        for region in lane.regions:
            if longest is None or region in longest:
                kept.append(region)
            else:
                sums[_get_row(region), (region.start_ns + offset) * slots // end].add(region, offset)
        bars += [{**base, "row": top + row, **summed.build_bar()} for (row, _), summed in sorted(sums.items())]
        bars += [{**base, "row": top + _get_row(region), **_build_bar(lane.process, region)} for region in kept]
        top += lane.rows
    if longest is None:
        return bars, []
    return bars, [
        f"The timeline draws the {len(longest):,} longest of {whole:,} blocks individually. The others are summed up in "
        f"intervals of {format_duration(end / slots)}, in the colour of the mode with the most time."
    ]


def _select_longest(lanes: list[_Lane], whole: int) -> set[Region] | None:
    """Return the blocks to draw individually; None for all of them."""
    if whole <= MAX_BARS:
        return None
    everything = [region for lane in lanes for region in lane.regions]
    return set(sorted(everything, key=duration_ns, reverse=True)[: MAX_BARS // 2])


def _build_background(lane: _Lane) -> Iterator[dict[str, Any]]:
    """Yield bars of the modes that the thread was in, to be painted over by its blocks.

    For a thread that changed modes too often to draw, it is the mode that the thread began in.
    """
    thread = lane.thread
    if thread is None:
        return
    history, offset = lane.process.history, lane.process.offset_ns
    changes = [t for t in history.transitions if t.thread == thread.thread and t.before != t.after]
    state = changes[0].before if changes else thread.state
    if state is None:
        return
    ended = history.end_ns if thread.ended_ns is None else thread.ended_ns
    modes = {thread.began_ns: state}
    if len(changes) <= _MAX_CHANGES:
        modes.update((change.time_ns, change.after) for change in changes)
    starts = [at for at, previous in zip(modes, [None, *modes.values()], strict=False) if modes[at] != previous]
    for start, end in zip(starts, [*starts[1:], ended], strict=True):
        mode = mode_name(*modes[start])
        if end > start:
            yield {"start": start + offset, "end": end + offset, "mode": mode, "what": f"thread in {mode}"} | (
                {"took": format_duration(end - start), "own": "-", "nodes": "-", "blocks": 0}
            )


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


class _SummedBlocks:
    """Sums over the blocks of one row that began in the same interval of time."""

    def __init__(self) -> None:
        self.start, self.end, self.blocks = -1, 0, 0
        self.nodes: int | None = None
        self.ns_by_mode: dict[str, int] = defaultdict(int)

    def add(self, region: Region, offset: int) -> None:
        start, took = region.start_ns + offset, duration_ns(region)
        self.start = start if self.start < 0 else min(self.start, start)
        self.end = max(self.end, start + took)
        self.blocks += 1
        if region.nodes is not None:
            self.nodes = (self.nodes or 0) + region.nodes
        self.ns_by_mode[mode_name(*region.inside)] += took

    def build_bar(self) -> dict[str, Any]:
        mode = max(self.ns_by_mode, key=lambda mode: self.ns_by_mode[mode])
        return {
            "start": self.start,
            "end": self.end,
            "mode": mode,
            "what": f"{self.blocks:,} short blocks: {', '.join(sorted(self.ns_by_mode))}",
            "took": format_duration(sum(self.ns_by_mode.values())),
            "own": "-",
            "nodes": format_count(self.nodes),
            "blocks": self.blocks,
        }
