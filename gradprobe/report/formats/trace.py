"""The trace-event format, which Perfetto opens; by itself, or merged into a trace of torch.profiler.

Regions are slices, in a track per thread and asyncio task, and so are phases, in tracks above those; autograd nodes and
saved bytes are counters, findings are instants. Times are microseconds since ``baseTimeNanoseconds`` of wall-clock time, as
in the traces of torch.profiler.
The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import gzip
import heapq
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any, TypeVar

import numpy as np

from gradprobe._counted_nouns import pluralize
from gradprobe.errors import GradprobeError
from gradprobe.history.op_totals import sum_bytes
from gradprobe.history.phase_timeline import Phase
from gradprobe.history.process import Process
from gradprobe.history.records import Region
from gradprobe.history.row_groups import group_rows
from gradprobe.recording.events import NOT_COUNTED, mode_name
from gradprobe.report.formats.rendered import Rendered, RenderOptions
from gradprobe.report.formats.torch_trace import ADVICE, TorchTrace, read_torch_trace
from gradprobe.report.units import escape_unprintable, format_location, truncate
from gradprobe.tables.recording_tables import RecordingTables
from gradprobe.tables.region_cells import duration_ns

MAX_SLICES = 100_000
_FIRST_TRACK = 1_000_000_000
"""First track number, above all thread numbers, which are the track numbers of torch.profiler."""
_MAX_PHASE_TRACKS = 1_000_000
_TEXT_WIDTH = 300

_Span = TypeVar("_Span", Region, Phase)


def render_recording(tables: RecordingTables, options: RenderOptions) -> Rendered:
    """Render the trace of a recording, merged into ``options.torch_trace`` if that is given."""
    base_trace = None if options.torch_trace is None else read_torch_trace(options.torch_trace)
    trace = _build_trace(tables, base_trace)
    try:
        text = json.dumps(trace, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError) as error:
        # Python reads infinite numbers and deeply nested lists that it cannot write as JSON again.
        if base_trace is None:
            raise
        raise GradprobeError(
            f"cannot merge {base_trace.path}: its content is not valid JSON ({error}); {ADVICE}"
        ) from None
    # Without the time of compression in the file, the same recording gives the same bytes.
    is_packed = options.suffix is not None and options.suffix.endswith(".gz")
    return Rendered(gzip.compress(text.encode(), mtime=0) if is_packed else text + "\n")


def _build_trace(tables: RecordingTables, base_trace: TorchTrace | None) -> dict[str, Any]:
    begun = min(int(content.meta.get("began_wall_ns", 0)) for content in tables.contents)
    base = begun if base_trace is None else base_trace.base_ns
    number_of_regions = sum(len(process.history.regions) for process in tables.processes)
    if base_trace is not None:
        ends = [p.history.end_ns + p.offset_ns for p in tables.processes]
        base_trace.check_overlap(begun, begun + max(ends))
    kept = _select_longest(tables.processes)
    events = [] if base_trace is None else list(base_trace.content["traceEvents"])
    for event in _build_events(tables, kept, is_merged=base_trace is not None):
        if "ts" in event:
            event["ts"] = (event["ts"] + begun - base) / 1000
        events.append(event)
    about = {"gradprobe": pluralize(number_of_regions, "region")}
    if len(kept) < number_of_regions:
        about["gradprobe"] += f", of which this trace shows the {len(kept):,} longest"
    if base_trace is None:
        return {"displayTimeUnit": "ns", "baseTimeNanoseconds": base, "otherData": about, "traceEvents": events}
    known = base_trace.content.get("otherData")
    return {
        **base_trace.content,
        "otherData": {**(known if isinstance(known, dict) else {}), **about},
        "traceEvents": events,
    }


def _select_longest(processes: Sequence[Process]) -> list[tuple[Process, Region]]:
    """Return the longest regions of all processes, the longest first."""
    found: list[tuple[int, Process, Region]] = []
    for process in processes:
        regions = process.history.regions
        order = np.argsort(-regions.columns.duration_ns, kind="stable")[:MAX_SLICES]
        durations = regions.columns.duration_ns[order].tolist()
        found += [(took, process, r) for took, r in zip(durations, regions.at(order), strict=True)]
    longest = heapq.nlargest(MAX_SLICES, found, key=lambda each: each[0])
    return [(process, region) for _, process, region in longest]


def _build_events(
    tables: RecordingTables, kept: list[tuple[Process, Region]], *, is_merged: bool
) -> Iterator[dict[str, Any]]:
    """Yield the events, with times in nanoseconds since the recording began."""
    tracks: dict[tuple[int, int, str | None], list[Region]] = defaultdict(list)
    numbers = {id(process): number for number, process in enumerate(tables.processes)}
    for process, region in kept:
        tracks[numbers[id(process)], region.thread, region.task].append(region)
    if not is_merged:
        for process in tables.processes:
            rank = "" if process.rank is None else f", rank {process.rank}"
            yield _build_metadata("process_name", process.pid, 0, name=f"gradprobe: process {process.pid}{rank}")
    for track, (number, thread, task) in enumerate(sorted(tracks, key=lambda key: (*key[:2], key[2] or ""))):
        process, regions = tables.processes[number], tracks[number, thread, task]
        tid = _FIRST_TRACK + track
        name = _shorten(f"{process.thread(thread)}{f' {task}' if task else ''}")
        yield _build_metadata("thread_name", process.pid, tid, name=f"modes: {name}" if is_merged else name)
        # Below the numbers of all threads, by which torch.profiler sorts its own.
        yield _build_metadata("thread_sort_index", process.pid, tid, sort_index=track - _FIRST_TRACK)
        for start, end, region, is_continuation in split_overlaps(regions):
            yield {
                "ph": "X",
                "cat": "gradprobe",
                "pid": process.pid,
                "tid": tid,
                "name": _format_name(process, region),
                "ts": start + process.offset_ns,
                "dur": (end - start) / 1000,
                "args": _build_args(process, region, is_continuation=is_continuation),
            }
    for number, process in enumerate(tables.processes):
        yield from _build_phases(process, _FIRST_TRACK + len(tracks) + number * _MAX_PHASE_TRACKS)
    threads: dict[tuple[int, int], list[Region]] = defaultdict(list)
    for (number, thread, _), regions in tracks.items():
        threads[number, thread] += regions
    for (number, thread), regions in threads.items():
        process = tables.processes[number]
        yield from _build_counters(process, regions, _shorten(process.thread(thread)))
    yield from _build_instants(tables)


def _build_phases(process: Process, first_track: int) -> Iterator[dict[str, Any]]:
    """Yield the phases of a process as slices, from ``first_track`` on."""
    tracks: dict[tuple[int, str | None], list[Phase]] = defaultdict(list)
    for phase in heapq.nlargest(MAX_SLICES, process.history.phases.found, key=duration_ns):
        tracks[phase.thread, phase.task].append(phase)
    for track, (thread, task) in enumerate(sorted(tracks, key=lambda key: (key[0], key[1] or ""))[:_MAX_PHASE_TRACKS]):
        name = _shorten(f"phases: {process.thread(thread)}{f' {task}' if task else ''}")
        yield _build_metadata("thread_name", process.pid, first_track + track, name=name)
        yield _build_metadata(
            "thread_sort_index", process.pid, first_track + track, sort_index=track - 2 * _FIRST_TRACK
        )
        for start, end, phase, is_continuation in split_overlaps(tracks[thread, task]):
            file, line, _ = process.place(phase.site)
            args = {"site": _shorten(format_location(file, line)), "found by gradprobe": phase.is_automatic}
            yield {
                "ph": "X",
                "cat": "gradprobe",
                "pid": process.pid,
                "tid": first_track + track,
                "name": _shorten(phase.name),
                "ts": start + process.offset_ns,
                "dur": (end - start) / 1000,
                "args": args | ({"continues": True} if is_continuation else {}),
            }


def _build_metadata(event: str, pid: int, tid: int, **args: Any) -> dict[str, Any]:
    return {"ph": "M", "name": event, "pid": pid, "tid": tid, "args": args}


def split_overlaps(regions: Iterable[_Span]) -> Iterator[tuple[int, int, _Span, bool]]:
    """Yield slices (start, end, region, is_continuation), each within or beside every other.

    One that lasts longer than the one it began in is cut there, because overlapping slices of a track are lost.
    """
    order = count()
    waiting = [(r.start_ns, -r.start_ns - duration_ns(r), next(order), r, False) for r in regions]
    heapq.heapify(waiting)
    open_ends: list[int] = []
    while waiting:
        start, end, _, region, is_continuation = heapq.heappop(waiting)
        end = -end
        while open_ends and open_ends[-1] <= start:
            open_ends.pop()
        if open_ends and end > open_ends[-1]:
            heapq.heappush(waiting, (open_ends[-1], -end, next(order), region, True))
            end = open_ends[-1]
        yield start, end, region, is_continuation
        open_ends.append(end)


def _format_name(process: Process, region: Region) -> str:
    file, line, _ = process.place(region.site)
    return _shorten(f"{region.manager} {format_location(file, line)}")


def _build_args(process: Process, region: Region, *, is_continuation: bool) -> dict[str, Any]:
    file, line, function = process.place(region.site)
    took = duration_ns(region)
    args = {
        "site": _shorten(format_location(file, line)),
        "function": _shorten(function or "-"),
        "form": region.form,
        "mode": mode_name(*region.inside),
        "own_us": max(took - region.child_ns, 0) / 1000,
        "nodes": region.nodes,
        "error": _shorten(region.error) or None,
        "irregular": ", ".join(dict.fromkeys(region.irregular)) or None,
        "continues": True if is_continuation else None,
    }
    return {name: value for name, value in args.items() if value is not None}


def _build_counters(process: Process, regions: list[Region], name: str) -> Iterator[dict[str, Any]]:
    """Yield running counts of autograd nodes and saved bytes at the edges of the regions of one thread."""
    edges = {
        time: nodes
        for region in regions
        for time, nodes in ((region.start_ns, region.start_nodes), (region.end_ns, region.end_nodes))
        if nodes != NOT_COUNTED and time is not None
    }
    yield from _build_counter(process, f"autograd nodes: {name}", "nodes", sorted(edges.items()))
    if process.counts_saved and any(region.thread in process.watched for region in regions):
        saved, total = [], 0
        for region in sorted(regions, key=lambda region: region.end_ns or 0):
            total += sum_bytes(process.op_totals.regions[region].own_saved)
            saved.append((region.end_ns or 0, total))
        yield from _build_counter(process, f"bytes saved for backward: {name}", "bytes", [(0, 0), *saved])


def _build_counter(process: Process, name: str, unit: str, points: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """Yield a point wherever the value changes, relative to the first value."""
    last = None
    for time, value in points:
        if value != last:
            last = value
            counted = {"ph": "C", "pid": process.pid, "tid": 0, "name": name, "ts": time + process.offset_ns}
            yield {**counted, "args": {unit: value - points[0][1]}}


def _build_instants(tables: RecordingTables) -> Iterator[dict[str, Any]]:
    """Yield an instant for each finding, when its line first ran a block, or else at the beginning."""
    first: dict[tuple[Any, Any], tuple[int, int]] = {}
    for process in tables.processes:
        columns = process.history.regions.columns
        for numbers in group_rows(columns.site):
            file, line, _ = process.place(int(columns.site[numbers[0]]))
            first.setdefault((file, line), (int(columns.start_ns[numbers[0]]) + process.offset_ns, process.pid))
    start = (0, tables.processes[0].pid if tables.processes else 0)
    for found in tables.findings.to_dict("records"):
        time, pid = first.get((found["file"], found["line"]), start)
        texts = {name: _shorten(str(found[name])) for name in ("severity", "message", "fix")}
        yield {"ph": "i", "s": "p", "cat": "gradprobe", "name": _shorten(str(found["rule"])), "ts": time} | (
            {"pid": pid, "tid": 0, "args": {**texts, "site": _shorten(format_location(found["file"], found["line"]))}}
        )


def _shorten(text: str) -> str:
    return truncate(escape_unprintable(text), _TEXT_WIDTH)
