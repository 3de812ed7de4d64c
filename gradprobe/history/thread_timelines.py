"""Timelines of the threads: begin and end, modes, and changes that no event announced.

A thread's modes must be, at each event, what the event before it left. If they are not, something changed them that no
context manager announced, and a transition ``unknown`` shows it. PyTorch's own blocks count as announced even while hidden.
"""

from __future__ import annotations

from gradprobe.history.records import Change, ThreadTimeline
from gradprobe.history.regions import RegionBuilder
from gradprobe.history.regular_runs import RunEffects
from gradprobe.recording.contents import Thread
from gradprobe.recording.events import ACTION_MASK, ENTER, EXIT, NOT_COUNTED, RECORDING_BEGINS, RECORDING_ENDS, UNKNOWN
from gradprobe.recording.rows import INITIAL_MODES, Modes, RawRow, modes_before


class ThreadTimelines:
    """Timelines of the threads seen so far. Times of rows are since the recording began, at ``origin``."""

    def __init__(
        self,
        threads: dict[int, Thread],
        regions: RegionBuilder,
        origin: int,
        *,
        include_torch: bool,
        only_calls: bool,
    ) -> None:
        self.found: dict[int, ThreadTimeline] = {}
        self._threads = threads
        self._regions = regions
        self._origin = origin
        self._include_torch = include_torch
        self._only_calls = only_calls
        self._has_begun = only_calls  # the beginnings after its own are those of other recordings

    def get(self, row: RawRow) -> ThreadTimeline:
        """Return the timeline of the thread of ``row``."""
        _, time, number, _, _, _, _, _ = row
        timeline = self.found.get(number)
        if timeline is None:
            thread = self._threads.get(number)
            is_new = thread is not None and not thread.inherited and thread.began_ns >= self._origin
            state = INITIAL_MODES if is_new else None
            timeline = ThreadTimeline(number, time, state, time, visible=state)
            timeline.is_watched = is_new or self._only_calls
            self.found[number] = timeline
        return timeline

    def mark(self, timeline: ThreadTimeline, row: RawRow) -> None:
        """Take in that a thread or a recording begins or ends."""
        op, time, _, site, _, _, _, nodes = row
        action = op & ACTION_MASK
        if action == RECORDING_BEGINS and not self._has_begun:
            self._has_begun = True
            timeline.began_ns = timeline.last_ns = 0
            timeline.last_nodes = nodes
            timeline.state = timeline.visible = modes_before(row, INITIAL_MODES)
            timeline.is_watched = True
        elif action in (RECORDING_BEGINS, RECORDING_ENDS):
            self.arrive(timeline, row, site, None)
        elif action == ENTER:
            timeline.last_nodes = nodes
        elif action == EXIT:
            timeline.advance(time, nodes)
            timeline.ended_ns = time

    def arrive(
        self, timeline: ThreadTimeline, row: RawRow, site: int, task: str | None, *, internal: bool = False
    ) -> Modes:
        """Advance to an event at ``site``, adding any unannounced change, and return the modes before it."""
        _, time, _, _, _, _, _, nodes = row
        before = modes_before(row, timeline.state or INITIAL_MODES)
        if timeline.state is None:
            timeline.state = timeline.visible = before
            timeline.last_ns, timeline.last_nodes = time, nodes
        if timeline.doubtful is not None:
            timeline.doubtful.after = timeline.state = timeline.visible = before
            if timeline.doubtful.region is not None and timeline.doubtful.event == "enter":
                timeline.doubtful.region.inside = before
        timeline.doubtful = None
        timeline.advance(time, nodes)
        jumps = timeline.state != before
        if timeline.left_by_program is None:
            timeline.left_by_program = before
        if internal and not self._include_torch:
            timeline.has_jumped = timeline.has_jumped or jumps
            timeline.state = before
            return before
        if (
            (jumps or timeline.has_jumped)
            and timeline.visible is not None
            and timeline.visible != before
            and (self._include_torch or not timeline.open_internal_blocks)
        ):
            change = Change(time, task, site, False, timeline.visible, before, nodes)
            self._add_unannounced(timeline, change)
        timeline.has_jumped = False
        timeline.state = timeline.visible = before
        return before

    def leave(self, timeline: ThreadTimeline, after: Modes, *, internal: bool) -> None:
        """Take in that an event left its thread in the modes ``after``."""
        timeline.state = after
        if not internal:
            timeline.left_by_program = after
        timeline.is_changed_by_torch = internal and after != timeline.left_by_program
        if self._include_torch or not internal or (not timeline.open_internal_blocks and not timeline.has_jumped):
            timeline.visible = after

    def can_take(self, timeline: ThreadTimeline, before: Modes) -> bool:
        """Return whether a run of regular blocks that begins in the modes ``before`` follows on what the thread did."""
        is_plain = timeline.doubtful is None and not timeline.has_jumped and not timeline.is_changed_by_torch
        known = (timeline.state, timeline.visible, timeline.left_by_program)
        return is_plain and not timeline.open_internal_blocks and all(modes in (None, before) for modes in known)

    def take(self, timeline: ThreadTimeline, effects: RunEffects) -> None:
        """Take in a run of regular blocks, at whose first event the thread has arrived."""
        for modes, ns, nodes in effects.time_by_modes:
            timeline.ns_by_state[modes] += ns
            if nodes is not None:
                timeline.nodes_by_state[modes] += nodes
        timeline.hidden_ns += effects.hidden_ns
        timeline.last_ns = effects.last_ns
        if effects.last_nodes != NOT_COUNTED:
            timeline.last_nodes = effects.last_nodes
        timeline.state = timeline.visible = effects.after
        timeline.left_by_program = effects.left_by_program
        timeline.is_changed_by_torch = effects.is_changed_by_torch

    def _add_unannounced(self, timeline: ThreadTimeline, change: Change) -> None:
        """Add a change that no event announced, at the time and place where it was noticed."""
        region = self._regions.open(timeline, change, UNKNOWN, "call")
        self._regions.add_transition(timeline, change, region, "set")

    def finish(self, end: int) -> None:
        """Charge the time up to the end of the recording to the modes that the threads were last in."""
        for timeline in self.found.values():
            if timeline.ended_ns is None:
                timeline.advance(end, NOT_COUNTED)
