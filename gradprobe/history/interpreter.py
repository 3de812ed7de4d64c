"""Interpreter of events: transitions, regions, probed calls, and the time in each mode.

The meaning of a sequence of events is defined here, in the modules of this package that it uses, and in
``recording.constructor_pairs``. Of the context managers:

* An exit is paired with its enter by the object, so blocks may close out of order and on other threads.
* A constructor of ``set_grad_enabled`` is a plain call or begins a block: see ``recording.constructor_pairs``.
* An inference-mode object that is entered while open, or exited out of order, does not end in the mode that it asks for.
  What such an event leaves is read from the event after it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from gradprobe.history.history_tables import HistoryTables
from gradprobe.history.mark_places import MarkPlaces
from gradprobe.history.phase_timeline import PhaseBuilder
from gradprobe.history.probed_calls import ProbedCalls
from gradprobe.history.process_history import History
from gradprobe.history.records import MODES, REENTERED, Change, Region, ThreadTimeline
from gradprobe.history.regions import RegionBuilder
from gradprobe.history.regular_blocks import Run, find_regular_blocks
from gradprobe.history.regular_runs import sum_run
from gradprobe.history.row_queue import ProgressIterator, RowQueue, read_row
from gradprobe.history.thread_timelines import ThreadTimelines
from gradprobe.recording.constructor_pairs import pair_constructors_of
from gradprobe.recording.contents import Contents
from gradprobe.recording.events import (
    ACTION_MASK,
    CALL,
    ENTER,
    EXIT,
    FOLDED,
    FOLDED_CALLS,
    FOLDED_END,
    FOLDED_HIDDEN,
    INFERENCE_MODE,
    MANAGERS,
    NOT_COUNTED,
    NOWHERE,
    PHASE,
    THREAD,
    EventBlock,
)
from gradprobe.recording.rows import INITIAL_MODES, RawRow, modes_after


def interpret(contents: Contents, *, include_torch: bool, watch: ProgressIterator = iter) -> History:
    """Interpret the events of ``contents``, those of PyTorch's own code only if ``include_torch``."""
    return _Interpreter(contents, include_torch).read(watch)


class _Interpreter:
    """State of one pass through the rows of a recording."""

    def __init__(self, contents: Contents, include_torch: bool) -> None:
        self.contents = contents
        self.sites = contents.sites
        self.names = contents.names
        self.origin = int(contents.meta.get("began_ns", 0))
        self.include_torch = include_torch
        only_calls = bool(contents.meta.get("only_calls"))
        self.phases = PhaseBuilder(self.sites)
        self.regions = RegionBuilder(self.phases, include_torch=include_torch)
        self.timelines = ThreadTimelines(
            contents.threads, self.regions, self.origin, include_torch=include_torch, only_calls=only_calls
        )
        self.calls = ProbedCalls(self.names, self.timelines, self.regions, only_calls=only_calls)
        self.entered: dict[int, list[Region]] = defaultdict(list)
        self.events = self.load_events()
        self.constructed, self.skipped = pair_constructors_of(self.events, self.sites)
        self.blocks = find_regular_blocks(
            self.events, contents, self.constructed, self.skipped, include_torch=include_torch
        )
        self.queue = RowQueue(self.events, self.blocks, self.skipped)
        self.marks = MarkPlaces(self.events, self.blocks, self.names, self.regions, self.phases, self.timelines)

    def read(self, watch: ProgressIterator) -> History:
        last_ns = 0
        for index, row in self.queue.read(watch):
            op, time, _, site, _, _, _, _ = row
            last_ns = max(last_ns, time)
            if self.marks.next_row < index:
                self.marks.take(index)
            self.regions.row = index
            subject, action = op & ~ACTION_MASK, op & ACTION_MASK
            timeline = self.timelines.get(row)
            run = self.queue.runs.pop(index, None)
            if run is not None:
                if self.take(timeline, run, row, index):
                    last_ns = max(last_ns, timeline.last_ns)
                    continue
                self.queue.split(run)
            if subject == THREAD:
                self.timelines.mark(timeline, row)
            elif subject == FOLDED:
                self.add_folded(timeline, row)
            elif subject == CALL:
                self.calls.add(timeline, row)
            elif subject == PHASE:
                self.phases.add(row, self.names.get(row[6]))
            elif action == EXIT:
                self.exit(timeline, row)
            elif action == ENTER:
                begun = self.constructed.get(index)
                if begun is None:
                    self.enter(timeline, row, row, site)
                else:
                    self.enter(timeline, row, read_row(self.events, begun.constructor), begun.site)
            else:
                self.set_mode(timeline, row)
        self.marks.take(len(self.events))
        return self.finish(max(last_ns, self.marks.last_ns))

    def load_events(self) -> EventBlock:
        """Return the events, with times since the recording began."""
        joined = EventBlock.joined(self.contents.blocks or [EventBlock.of([])])
        return replace(joined, time_ns=joined.time_ns - self.origin, accounts={})

    def take(self, timeline: ThreadTimeline, run: Run, row: RawRow, index: int) -> bool:
        """Take a run of regular blocks, whose first event is ``row``; return whether that is possible here."""
        if self.blocks is None or not self.timelines.can_take(timeline, MODES[self.blocks.before[run.first]]):
            return False
        _, time, _, site, _, _, _, nodes = row
        begun = self.constructed.get(index)
        begin = row if begun is None else read_row(self.events, begun.constructor)
        self.timelines.arrive(timeline, begin, site, None, internal=bool(self.blocks.internal[run.first]))
        timeline.advance(time, nodes)
        effects = sum_run(self.events, self.blocks, run)
        self.regions.take(run, effects, timeline)
        self.timelines.take(timeline, effects)
        self.marks.blocks.take(run)
        return True

    def enter(self, timeline: ThreadTimeline, row: RawRow, begin: RawRow, site: int) -> None:
        """Enter a block at ``site``. ``begin`` is the event that set its modes: ``row``, or a constructor."""
        op, time, _, _, _, key, _, nodes = row
        _, _, _, _, _, _, label, _ = begin
        internal, task = self.is_internal(site), self.names.get(label)
        before = self.timelines.arrive(timeline, begin, site, task, internal=internal)
        manager = MANAGERS[op & ~ACTION_MASK]
        after = modes_after(begin, before)
        timeline.advance(time, nodes)
        opened = self.entered[key]
        is_open = any(r.thread == timeline.thread and r.end_ns is None for r in opened)
        change = Change(time, task, site, internal, before, after, nodes)
        region = self.regions.open(timeline, change, manager, self.find_form(site))
        opened.append(region)
        transition = self.regions.add_transition(timeline, change, region, "enter")
        if is_open and manager == MANAGERS[INFERENCE_MODE]:
            timeline.doubtful = transition
        if internal:
            timeline.open_internal_blocks += 1
        self.timelines.leave(timeline, after, internal=internal)

    def exit(self, timeline: ThreadTimeline, row: RawRow) -> None:
        """Exit a block."""
        op, time, _, exited, _, key, exception, nodes = row
        opened = self.entered[key]
        region = opened.pop() if opened else None
        internal = region.internal if region is not None else self.is_internal(exited)
        task = region.task if region is not None else None
        site = exited
        if self.find_form(site) == "indirect" and region is not None and region.site != NOWHERE:
            site = region.site
        before = self.timelines.arrive(timeline, row, site, task, internal=internal)
        is_inference = op & ~ACTION_MASK == INFERENCE_MODE
        if region is None:
            found = INITIAL_MODES if is_inference else modes_after(row, before)
            region = self.regions.open_earlier(
                timeline,
                MANAGERS[op & ~ACTION_MASK],
                self.find_form(exited),
                exited,
                found,
                before,
                internal=internal,
            )
        after = modes_after(row, region.before if is_inference else before)
        region.error = self.names.get(exception, "")
        if region.site == NOWHERE:
            region.site = exited
        self.regions.close(region, timeline, time, nodes if region.thread == timeline.thread else NOT_COUNTED)
        # Two blocks of one address are two of one object only if both are exited: the first may be dead and never exited.
        for inner in region.reentrant_regions:
            inner.irregular.append(REENTERED)
        if opened and opened[-1].thread == region.thread:
            opened[-1].reentrant_regions.append(region)
        if internal:
            timeline.open_internal_blocks = max(timeline.open_internal_blocks - 1, 0)
        change = Change(time, task, site, internal, before, after, nodes)
        transition = self.regions.add_transition(timeline, change, region, "exit")
        if is_inference and (region.irregular or region.reentrant_regions or opened):
            timeline.doubtful = transition
        self.timelines.leave(timeline, after, internal=internal)

    def set_mode(self, timeline: ThreadTimeline, row: RawRow) -> None:
        """Set a mode by a plain call of ``set_grad_enabled``, or revert one that decorated a function."""
        _, time, _, site, _, _, label, nodes = row
        internal, task = self.is_internal(site), self.names.get(label)
        before = self.timelines.arrive(timeline, row, site, task, internal=internal)
        after = modes_after(row, before)
        change = Change(time, task, site, internal, before, after, nodes)
        region = self.regions.open(timeline, change, "set_grad_enabled", "call")
        self.regions.add_transition(timeline, change, region, "set")
        self.timelines.leave(timeline, after, internal=internal)

    def add_folded(self, timeline: ThreadTimeline, row: RawRow) -> None:
        """Subtract the time and the nodes of folded blocks; their marker has the time in place of a key."""
        op, time, _, site, _, folded_ns, label, nodes = row
        stack = self.regions.stack(timeline.thread, self.names.get(label))
        if op == FOLDED_END:
            internal = self.is_internal(site)
            timeline.advance(time, nodes)
            if stack and stack[-1].form == "call" and (self.include_torch or not internal):
                self.regions.close(stack[-1], timeline, time, nodes)
            if timeline.state is not None:
                self.timelines.leave(timeline, modes_after(row, timeline.state), internal=internal)
            return
        timeline.advance(time, NOT_COUNTED)
        if op == FOLDED_CALLS:
            # Where the thread's time counts anyway, that of its probed calls is in it.
            if timeline.state is None:
                modes = modes_after(row, INITIAL_MODES)
                timeline.ns_by_state[modes] += folded_ns
                timeline.nodes_by_state[modes] += nodes
            return
        if op == FOLDED_HIDDEN:
            if stack and not self.include_torch:
                stack[-1].child_ns -= folded_ns
                stack[-1].child_nodes -= nodes
            return
        if timeline.state is not None:
            timeline.ns_by_state[timeline.state] -= folded_ns
            timeline.nodes_by_state[timeline.state] -= nodes
        if stack:
            stack[-1].child_ns += folded_ns
            stack[-1].child_nodes += nodes

    def finish(self, last_ns: int) -> History:
        """End what is open, at the end of the recording or with its last event, and return the history."""
        meta = self.contents.meta
        complete = "ended_ns" in meta
        end = max(int(meta["ended_ns"]) - self.origin, last_ns) if complete else last_ns
        timelines, regions = self.timelines.found, self.regions
        self.timelines.finish(end)
        regions.finish(timelines, end)
        self.phases.finish(end)
        tables = HistoryTables(regions, self.events, self.blocks, self.sites, self.names)
        return History(
            transitions=tables.transitions,
            regions=tables.regions,
            calls=self.calls.found,
            marks=self.marks.finish(tables),
            timelines=list(timelines.values()),
            hidden=regions.hidden,
            phases=self.phases,
            end_ns=end,
            complete=complete,
        )

    def find_form(self, site: int) -> str:
        known = self.sites.get(site)
        return known.form if known is not None else "with"

    def is_internal(self, site: int) -> bool:
        known = self.sites.get(site)
        return known is not None and known.internal
