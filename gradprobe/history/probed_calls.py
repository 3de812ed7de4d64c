"""The calls of probed functions: a generator or a coroutine is one call, whose time leaves out what it waits."""

from __future__ import annotations

from gradprobe.history.records import ProbedCall, RawRow, ThreadTimeline
from gradprobe.history.regions import RegionBuilder
from gradprobe.history.thread_timelines import ThreadTimelines
from gradprobe.recording.events import ACTION_MASK, ENTER, EXIT, NOT_COUNTED


class ProbedCalls:
    """The calls found so far; ``only_calls`` where nothing outside of them was seen."""

    def __init__(
        self, names: dict[int, str], timelines: ThreadTimelines, regions: RegionBuilder, *, only_calls: bool
    ) -> None:
        self.found: list[ProbedCall] = []
        self._names = names
        self._lanes = timelines
        self._regions = regions
        self._only_calls = only_calls
        self._open: dict[int, ProbedCall] = {}

    def add(self, lane: ThreadTimeline, row: RawRow) -> None:
        """A call begins, goes on, waits or ends."""
        kind, task = row[0] & ACTION_MASK, self._names.get(row[6])
        self._lanes.arrive(lane, row, row[3], False, task if kind == ENTER else None)
        if kind == ENTER:
            self._begin(lane, row, task)
        elif row[5] in self._open:
            self._end(lane, row, kind == EXIT)

    def _begin(self, lane: ThreadTimeline, row: RawRow, task: str | None) -> None:
        time, key = row[1], row[5]
        lane.calls += 1
        waiting = self._open.get(key)
        if waiting is not None:
            waiting.last_resumed_ns, waiting.last_resumed_nodes = time, row[7]
            waiting.steps += 1
        else:
            self._open[key] = call = ProbedCall(key, row[3], row[2], task, time, time, row[7])
            self.found.append(call)

    def _end(self, lane: ThreadTimeline, row: RawRow, for_good: bool) -> None:
        time, key = row[1], row[5]
        call = self._open[key]
        call.active_ns += time - call.last_resumed_ns
        if NOT_COUNTED in (row[7], call.last_resumed_nodes) or call.nodes is None:
            call.nodes = None
        else:
            call.nodes += row[7] - call.last_resumed_nodes
        if for_good:
            call.closed, call.error = True, self._names.get(row[6], "")
            del self._open[key]
        lane.calls = max(lane.calls - 1, 0)
        if self._only_calls and not lane.calls:
            # Outside of probed calls nothing was seen: no time counts, and what is open ends as far as can be told.
            lane.state = lane.visible = None
            if call.closed:
                self._regions.abandon(lane.thread, call.task, time, row[7])
