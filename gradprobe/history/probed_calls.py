"""Calls of probed functions: a generator or coroutine is one call, without the time it is suspended."""

from __future__ import annotations

from gradprobe.history.records import ProbedCall, ThreadTimeline
from gradprobe.history.regions import RegionBuilder
from gradprobe.history.thread_timelines import ThreadTimelines
from gradprobe.recording.events import ACTION_MASK, ENTER, EXIT, NOT_COUNTED
from gradprobe.recording.rows import RawRow


class ProbedCalls:
    """Calls found so far. Set ``only_calls`` if nothing was observed outside of them."""

    def __init__(
        self, names: dict[int, str], timelines: ThreadTimelines, regions: RegionBuilder, *, only_calls: bool
    ) -> None:
        self.found: list[ProbedCall] = []
        self._names = names
        self._timelines = timelines
        self._regions = regions
        self._only_calls = only_calls
        self._open: dict[int, ProbedCall] = {}

    def add(self, timeline: ThreadTimeline, row: RawRow) -> None:
        """Take in that a call begins, is resumed, is suspended or ends."""
        op, _, _, site, _, key, label, _ = row
        action, task = op & ACTION_MASK, self._names.get(label)
        self._timelines.arrive(timeline, row, site, task if action == ENTER else None)
        if action == ENTER:
            self._begin(timeline, row, task)
        elif key in self._open:
            self._end(timeline, row, for_good=action == EXIT)

    def _begin(self, timeline: ThreadTimeline, row: RawRow, task: str | None) -> None:
        _, time, thread, site, _, key, _, nodes = row
        timeline.running_calls += 1
        suspended = self._open.get(key)
        if suspended is not None:
            suspended.last_resumed_ns, suspended.last_resumed_nodes = time, nodes
            suspended.steps += 1
        else:
            call = ProbedCall(key, site, thread, task, time, time, nodes)
            self._open[key] = call
            self.found.append(call)

    def _end(self, timeline: ThreadTimeline, row: RawRow, *, for_good: bool) -> None:
        _, time, _, _, _, key, exception, nodes = row
        call = self._open[key]
        call.active_ns += time - call.last_resumed_ns
        if NOT_COUNTED in (nodes, call.last_resumed_nodes) or call.nodes is None:
            call.nodes = None
        else:
            call.nodes += nodes - call.last_resumed_nodes
        if for_good:
            call.closed, call.error = True, self._names.get(exception, "")
            del self._open[key]
        timeline.running_calls = max(timeline.running_calls - 1, 0)
        if self._only_calls and not timeline.running_calls:
            # Nothing was observed outside of probed calls: no time counts there, and what is open ends as far as is known.
            timeline.state = timeline.visible = None
            if call.closed:
                self._regions.abandon(timeline.thread, call.task, time, nodes)
