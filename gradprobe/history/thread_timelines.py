"""The threads of a history: when they begin and end, which modes they are in, and changes that nothing announced.

A thread's modes must be, at each event, what the event before it left. If they are not, something changed them that no
manager announced, and a transition ``unknown`` says so. PyTorch's own blocks count as announced even while hidden.
"""

from __future__ import annotations

from gradprobe.history.records import INITIAL_MODES, Modes, RawRow, ThreadTimeline, modes_before
from gradprobe.history.regions import RegionBuilder
from gradprobe.recording.events import ACTION_MASK, ENTER, EXIT, NOT_COUNTED, RECORDING_BEGINS, RECORDING_ENDS, UNKNOWN
from gradprobe.recording.sqlite_file import Thread


class ThreadTimelines:
    """The lanes of the threads seen so far. Rows come with times since the recording began, at ``origin``."""

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

    def of(self, row: RawRow) -> ThreadTimeline:
        """The lane of the thread of ``row``."""
        number, time = row[2], row[1]
        lane = self.found.get(number)
        if lane is None:
            thread = self._threads.get(number)
            is_new = thread is not None and not thread.inherited and thread.began_ns >= self._origin
            state = INITIAL_MODES if is_new else None
            lane = self.found[number] = ThreadTimeline(number, time, state, time, visible=state)
            lane.is_watched = is_new or self._only_calls
        return lane

    def mark(self, lane: ThreadTimeline, row: RawRow) -> None:
        """A thread or a recording begins or ends."""
        kind = row[0] & ACTION_MASK
        if kind == RECORDING_BEGINS and not self._has_begun:
            self._has_begun = True
            lane.began_ns = lane.last_ns = 0
            lane.last_nodes = row[7]
            lane.state = lane.visible = modes_before(row, INITIAL_MODES)
            lane.is_watched = True
        elif kind in (RECORDING_BEGINS, RECORDING_ENDS):
            self.arrive(lane, row, row[3], False, None)
        elif kind == ENTER:
            lane.last_nodes = row[7]
        elif kind == EXIT:
            lane.advance(row[1], row[7])
            lane.ended_ns = row[1]

    def arrive(self, lane: ThreadTimeline, row: RawRow, site: int, internal: bool, task: str | None) -> Modes:
        """Brings ``lane`` up to an event at ``site``, and returns the modes before it; tells of changes unannounced."""
        before = modes_before(row, lane.state or INITIAL_MODES)
        time = row[1]
        if lane.state is None:
            lane.state = lane.visible = before
            lane.last_ns, lane.last_nodes = time, row[7]
        if lane.doubtful is not None:
            lane.doubtful.after = lane.state = lane.visible = before
            if lane.doubtful.region is not None and lane.doubtful.event == "enter":
                lane.doubtful.region.inside = before
        lane.doubtful = None
        lane.advance(time, row[7])
        jumped = lane.state != before
        if lane.own is None:
            lane.own = before
        if internal and not self._include_torch:
            lane.jumped = lane.jumped or jumped
            lane.state = before
            return before
        if (
            (jumped or lane.jumped)
            and lane.visible is not None
            and lane.visible != before
            and (self._include_torch or not lane.internal_open)
        ):
            self._unknown(lane, row, site, task, lane.visible, before)
        lane.jumped = False
        lane.state = lane.visible = before
        return before

    def leave(self, lane: ThreadTimeline, after: Modes, internal: bool) -> None:
        """An event left its thread in the modes ``after``."""
        lane.state = after
        if not internal:
            lane.own = after
        lane.is_changed_by_torch = internal and after != lane.own
        if self._include_torch or not internal or (not lane.internal_open and not lane.jumped):
            lane.visible = after

    def _unknown(
        self, lane: ThreadTimeline, row: RawRow, site: int, task: str | None, before: Modes, after: Modes
    ) -> None:
        """Notes a change that nothing announced, at the time and place where it was noticed."""
        time = row[1]
        region = self._regions.open(lane, time, task, UNKNOWN, "call", site, before, after, row[7])
        self._regions.note(lane, time, task, region, "set", before, after, site, False)

    def finish(self, end: int) -> None:
        """Charges the time up to the end of the recording to the modes that the threads were last in."""
        for lane in self.found.values():
            if lane.ended_ns is None:
                lane.advance(end, NOT_COUNTED)
