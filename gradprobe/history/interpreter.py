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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from gradprobe.history.probed_calls import ProbedCalls
from gradprobe.history.records import REENTERED, Change, EventMark, History, Region, ThreadTimeline
from gradprobe.history.regions import RegionBuilder
from gradprobe.history.thread_timelines import ThreadTimelines
from gradprobe.recording.constructor_pairs import pair_constructors
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
    TALLY,
    THREAD,
)
from gradprobe.recording.rows import INITIAL_MODES, EventRow, modes_after

ProgressIterator = Callable[[Sequence[EventRow]], Iterable[EventRow]]
"""Wrapper that yields the rows it is given and shows how far it is."""


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
        self.regions = RegionBuilder(include_torch=include_torch)
        self.timelines = ThreadTimelines(
            contents.threads, self.regions, self.origin, include_torch=include_torch, only_calls=only_calls
        )
        self.calls = ProbedCalls(self.names, self.timelines, self.regions, only_calls=only_calls)
        self.entered: dict[int, list[Region]] = defaultdict(list)
        self.marks: list[EventMark] = []

    def read(self, watch: ProgressIterator) -> History:
        rows = self.load_rows()
        constructed, skipped = pair_constructors(rows, self.sites)
        last_ns = 0
        for index, row in enumerate(watch(rows)):
            if index in skipped:
                continue
            last_ns = max(last_ns, row.time_ns)
            subject, action = row.op & ~ACTION_MASK, row.op & ACTION_MASK
            timeline = self.timelines.get(row)
            if subject == THREAD:
                self.timelines.mark(timeline, row)
            elif subject == FOLDED:
                self.add_folded(timeline, row)
            elif subject == CALL:
                self.calls.add(timeline, row)
            elif row.op >= TALLY:
                self.add_mark(row)
            elif action == EXIT:
                self.exit(timeline, row)
            elif action == ENTER:
                begun = constructed.get(index)
                if begun is None:
                    self.enter(timeline, row, row, row.site)
                else:
                    self.enter(timeline, row, rows[begun.constructor], begun.site)
            else:
                self.set_mode(timeline, row)
        return self.finish(last_ns)

    def load_rows(self) -> list[EventRow]:
        """Return the events, with times since the recording began."""
        since_begin = (replace(block, time_ns=block.time_ns - self.origin) for block in self.contents.blocks)
        return [row for block in since_begin for row in map(EventRow._make, block.rows())]

    def enter(self, timeline: ThreadTimeline, row: EventRow, begin: EventRow, site: int) -> None:
        """Enter a block at ``site``. ``begin`` is the event that set its modes: ``row``, or a constructor."""
        internal = self.is_internal(site)
        task = self.names.get(begin.extra)
        before = self.timelines.arrive(timeline, begin, site, task, internal=internal)
        manager = MANAGERS[row.op & ~ACTION_MASK]
        after = modes_after(begin, before)
        timeline.advance(row.time_ns, row.nodes)
        is_open = any(r.thread == timeline.thread and r.end_ns is None for r in self.entered[row.key])
        change = Change(row.time_ns, task, site, internal, before, after, row.nodes)
        region = self.regions.open(timeline, change, manager, self.find_form(site))
        self.entered[row.key].append(region)
        transition = self.regions.add_transition(timeline, change, region, "enter")
        if is_open and manager == MANAGERS[INFERENCE_MODE]:
            timeline.doubtful = transition
        if internal:
            timeline.open_internal_blocks += 1
        self.timelines.leave(timeline, after, internal=internal)

    def exit(self, timeline: ThreadTimeline, row: EventRow) -> None:
        """Exit a block."""
        opened = self.entered[row.key]
        region = opened.pop() if opened else None
        internal = region.internal if region is not None else self.is_internal(row.site)
        task = region.task if region is not None else None
        site = row.site
        if self.find_form(site) == "indirect" and region is not None and region.site != NOWHERE:
            site = region.site
        before = self.timelines.arrive(timeline, row, site, task, internal=internal)
        is_inference = row.op & ~ACTION_MASK == INFERENCE_MODE
        if region is None:
            found = INITIAL_MODES if is_inference else modes_after(row, before)
            region = self.regions.open_earlier(
                timeline,
                MANAGERS[row.op & ~ACTION_MASK],
                self.find_form(row.site),
                row.site,
                found,
                before,
                internal=internal,
            )
        after = modes_after(row, region.before if is_inference else before)
        region.error = self.names.get(row.extra, "")
        if region.site == NOWHERE:
            region.site = row.site
        nodes = row.nodes if region.thread == timeline.thread else NOT_COUNTED
        self.regions.close(region, timeline, row.time_ns, nodes)
        # Two blocks of one address are two of one object only if both are exited: the first may be dead and never exited.
        for inner in region.reentrant_regions:
            inner.irregular.append(REENTERED)
        if opened and opened[-1].thread == region.thread:
            opened[-1].reentrant_regions.append(region)
        if internal:
            timeline.open_internal_blocks = max(timeline.open_internal_blocks - 1, 0)
        change = Change(row.time_ns, task, site, internal, before, after, row.nodes)
        transition = self.regions.add_transition(timeline, change, region, "exit")
        if is_inference and (region.irregular or region.reentrant_regions or opened):
            timeline.doubtful = transition
        self.timelines.leave(timeline, after, internal=internal)

    def set_mode(self, timeline: ThreadTimeline, row: EventRow) -> None:
        """Set a mode by a plain call of ``set_grad_enabled``, or revert one that decorated a function."""
        internal, task = self.is_internal(row.site), self.names.get(row.extra)
        before = self.timelines.arrive(timeline, row, row.site, task, internal=internal)
        after = modes_after(row, before)
        change = Change(row.time_ns, task, row.site, internal, before, after, row.nodes)
        region = self.regions.open(timeline, change, "set_grad_enabled", "call")
        self.regions.add_transition(timeline, change, region, "set")
        self.timelines.leave(timeline, after, internal=internal)

    def add_folded(self, timeline: ThreadTimeline, row: EventRow) -> None:
        """Subtract the time and the nodes of folded blocks; their marker has the time in place of a key."""
        stack = self.regions.stack(timeline.thread, self.names.get(row.extra))
        if row.op == FOLDED_END:
            internal = self.is_internal(row.site)
            timeline.advance(row.time_ns, row.nodes)
            if stack and stack[-1].form == "call" and (self.include_torch or not internal):
                self.regions.close(stack[-1], timeline, row.time_ns, row.nodes)
            if timeline.state is not None:
                self.timelines.leave(timeline, modes_after(row, timeline.state), internal=internal)
            return
        folded_ns, folded_nodes = row.key, row.nodes
        timeline.advance(row.time_ns, NOT_COUNTED)
        if row.op == FOLDED_CALLS:
            # Where the thread's time counts anyway, that of its probed calls is in it.
            if timeline.state is None:
                modes = modes_after(row, INITIAL_MODES)
                timeline.ns_by_state[modes] += folded_ns
                timeline.nodes_by_state[modes] += folded_nodes
            return
        if row.op == FOLDED_HIDDEN:
            if stack and not self.include_torch:
                stack[-1].child_ns -= folded_ns
                stack[-1].child_nodes -= folded_nodes
            return
        if timeline.state is not None:
            timeline.ns_by_state[timeline.state] -= folded_ns
            timeline.nodes_by_state[timeline.state] -= folded_nodes
        if stack:
            stack[-1].child_ns += folded_ns
            stack[-1].child_nodes += folded_nodes

    def add_mark(self, row: EventRow) -> None:
        """Add the mark of an event to which rows of another table belong, in the block that is open."""
        stack = self.regions.stack(row.thread, self.names.get(row.extra))
        region = stack[-1] if stack else None
        self.marks.append(EventMark(row.op, row.key, region, row.thread, row.site, row.time_ns))

    def finish(self, last_ns: int) -> History:
        """End what is open, at the end of the recording or with its last event, and return the history."""
        meta = self.contents.meta
        complete = "ended_ns" in meta
        end = max(int(meta["ended_ns"]) - self.origin, last_ns) if complete else last_ns
        timelines, regions = self.timelines.found, self.regions
        self.timelines.finish(end)
        regions.finish(timelines, end)
        return History(
            transitions=regions.transitions,
            regions=regions.found,
            calls=self.calls.found,
            marks=self.marks,
            timelines=list(timelines.values()),
            hidden=regions.hidden,
            end_ns=end,
            complete=complete,
        )

    def find_form(self, site: int) -> str:
        known = self.sites.get(site)
        return known.form if known is not None else "with"

    def is_internal(self, site: int) -> bool:
        known = self.sites.get(site)
        return known is not None and known.internal
