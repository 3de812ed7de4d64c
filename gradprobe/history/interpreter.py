"""From events to what happened: transitions, the regions they pair into, probed calls, and the time under each mode.

What a sequence of events means is known here and in the files this one is made of: ``lanes.py``, ``regions.py``,
``calls.py`` and ``constructors.py``. Of the managers:

* An exit finds its enter by the manager object, so blocks may close out of order and on other threads.
* Whether a constructor of ``set_grad_enabled`` was a plain call or the beginning of a block: see ``constructors.py``.
* An inference-mode object that is entered while open, or left out of order, does not end in the mode that it asks for.
  What such an event leaves is read from the event after it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from gradprobe.history.probed_calls import ProbedCalls
from gradprobe.history.records import (
    INITIAL_MODES,
    REENTERED,
    EventMark,
    History,
    RawRow,
    Region,
    ThreadTimeline,
    modes_after,
)
from gradprobe.history.regions import RegionBuilder
from gradprobe.history.thread_timelines import ThreadTimelines
from gradprobe.recording.constructor_pairs import ConstructedBlock, pair_constructors
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
from gradprobe.recording.sqlite_file import Contents

ProgressIterator = Callable[[Sequence[RawRow]], Iterable[RawRow]]
"""Goes through rows and gives them on, showing how far it is."""


def interpret(contents: Contents, *, include_torch: bool, watch: ProgressIterator = iter) -> History:
    """Reads the events of ``contents``; those of PyTorch's own code are left out unless ``include_torch``."""
    return _Reader(contents, include_torch).read(watch)


class _Reader:
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
        rows = self.rows()
        begun, skipped = pair_constructors(rows, self.sites)
        last_ns = 0
        for index, row in enumerate(watch(rows)):
            if index in skipped:
                continue
            last_ns = max(last_ns, row[1])
            op, kind = row[0], row[0] & ACTION_MASK
            lane = self.timelines.of(row)
            if op & ~ACTION_MASK == THREAD:
                self.timelines.mark(lane, row)
            elif op & ~ACTION_MASK == FOLDED:
                self.folded(lane, row)
            elif op & ~ACTION_MASK == CALL:
                self.calls.add(lane, row)
            elif op >= TALLY:
                self.operators(row)
            elif kind == EXIT:
                self.exit(lane, row)
            elif kind == ENTER:
                self.enter(lane, row, begun.get(index))
            else:
                self.plain(lane, row)
        return self.finish(last_ns)

    def rows(self) -> list[RawRow]:
        """The events, with times since the recording began."""
        since_begin = (replace(block, time_ns=block.time_ns - self.origin) for block in self.contents.blocks)
        return [row for block in since_begin for row in block.rows()]

    def enter(self, lane: ThreadTimeline, row: RawRow, begun: ConstructedBlock | None) -> None:
        begin, site = (begun.constructor, begun.site) if begun is not None else (row, row[3])
        internal = self.is_internal(site)
        task = self.names.get(begin[6])
        before = self.timelines.arrive(lane, begin, site, internal, task)
        manager = MANAGERS[row[0] & ~ACTION_MASK]
        after = modes_after(begin, before)
        time, nodes, key = row[1], row[7], row[5]
        lane.advance(time, nodes)
        again = [r for r in self.entered[key] if r.thread == lane.thread and r.end_ns is None]
        region = self.regions.open(
            lane, time, task, manager, self.form(site), site, before, after, nodes, internal=internal
        )
        self.entered[key].append(region)
        transition = self.regions.note(lane, time, task, region, "enter", before, after, site, internal)
        if again and manager == MANAGERS[INFERENCE_MODE]:
            lane.doubtful = transition
        if internal:
            lane.internal_open += 1
        self.timelines.leave(lane, after, internal)

    def exit(self, lane: ThreadTimeline, row: RawRow) -> None:
        opened = self.entered[row[5]]
        region = opened.pop() if opened else None
        internal = region.internal if region is not None else self.is_internal(row[3])
        task = region.task if region is not None else None
        site, time = row[3], row[1]
        if self.form(site) == "indirect" and region is not None and region.site != NOWHERE:
            site = region.site
        before = self.timelines.arrive(lane, row, site, internal, task)
        is_inference = row[0] & ~ACTION_MASK == INFERENCE_MODE
        if region is None:
            manager, found = (
                MANAGERS[row[0] & ~ACTION_MASK],
                INITIAL_MODES if is_inference else modes_after(row, before),
            )
            region = self.regions.open_earlier(
                lane, manager, self.form(row[3]), row[3], found, before, internal=internal
            )
        after = modes_after(row, region.before if is_inference else before)
        region.error = self.names.get(row[6], "")
        if region.site == NOWHERE:
            region.site = row[3]
        self.regions.close(region, time, row[7] if region.thread == lane.thread else NOT_COUNTED, lane)
        # Two blocks of one address are two of one object only if both are left: the first may be dead and never left.
        for inner in region.reentrant_regions:
            inner.irregular.append(REENTERED)
        if opened and opened[-1].thread == region.thread:
            opened[-1].reentrant_regions.append(region)
        if internal:
            lane.internal_open = max(lane.internal_open - 1, 0)
        transition = self.regions.note(lane, time, task, region, "exit", before, after, site, internal)
        if is_inference and (region.irregular or region.reentrant_regions or opened):
            lane.doubtful = transition
        self.timelines.leave(lane, after, internal)

    def plain(self, lane: ThreadTimeline, row: RawRow) -> None:
        """A call of ``set_grad_enabled`` that begins no block, or its undoing when the object decorates a function."""
        site, time = row[3], row[1]
        internal, task = self.is_internal(site), self.names.get(row[6])
        before = self.timelines.arrive(lane, row, site, internal, task)
        after = modes_after(row, before)
        region = self.regions.open(
            lane, time, task, "set_grad_enabled", "call", site, before, after, row[7], internal=internal
        )
        self.regions.note(lane, time, task, region, "set", before, after, site, internal)
        self.timelines.leave(lane, after, internal)

    def folded(self, lane: ThreadTimeline, row: RawRow) -> None:
        """Time that finished blocks took, which were added up and are no longer among the events."""
        time, stack = row[1], self.regions.stack(lane.thread, self.names.get(row[6]))
        if row[0] == FOLDED_END:
            internal = self.is_internal(row[3])
            lane.advance(time, row[7])
            if stack and stack[-1].form == "call" and (self.include_torch or not internal):
                self.regions.close(stack[-1], time, row[7], lane)
            if lane.state is not None:
                self.timelines.leave(lane, modes_after(row, lane.state), internal)
            return
        lane.advance(time, NOT_COUNTED)
        if row[0] == FOLDED_CALLS:
            # Where the thread's time counts anyway, that of its probed calls is in it.
            if lane.state is None:
                state = modes_after(row, INITIAL_MODES)
                lane.ns_by_state[state] += row[5]
                lane.nodes_by_state[state] += row[7]
            return
        if row[0] == FOLDED_HIDDEN:
            if stack and not self.include_torch:
                stack[-1].child_ns -= row[5]
                stack[-1].child_nodes -= row[7]
            return
        if lane.state is not None:
            lane.ns_by_state[lane.state] -= row[5]
            lane.nodes_by_state[lane.state] -= row[7]
        if stack:
            stack[-1].child_ns += row[5]
            stack[-1].child_nodes += row[7]

    def finish(self, last_ns: int) -> History:
        meta = self.contents.meta
        complete = "ended_ns" in meta
        end = max(int(meta["ended_ns"]) - self.origin, last_ns) if complete else last_ns
        timelines, regions = self.timelines.found, self.regions
        self.timelines.finish(end)
        regions.finish(timelines, end)
        return History(
            regions.transitions,
            regions.found,
            self.calls.found,
            self.marks,
            list(timelines.values()),
            regions.hidden,
            end,
            complete,
        )

    def operators(self, row: RawRow) -> None:
        """Operators that ran here, or what else has rows in an account: it belongs to the block that is open."""
        stack = self.regions.stack(row[2], self.names.get(row[6]))
        self.marks.append(EventMark(row[0], row[5], stack[-1] if stack else None, row[2], row[3], row[1]))

    def form(self, site: int) -> str:
        known = self.sites.get(site)
        return known.form if known is not None else "with"

    def is_internal(self, site: int) -> bool:
        known = self.sites.get(site)
        return known is not None and known.internal
