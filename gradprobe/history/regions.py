"""Regions of a history: how they nest and close, and the transitions at their edges.

Regions nest per thread and asyncio task. An exit may come out of order or on another thread; the region shows that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from gradprobe.history.phase_timeline import PhaseBuilder
from gradprobe.history.records import (
    ENTERED_EARLIER,
    HELD_ACROSS_TASKS,
    OTHER_THREAD,
    OUT_OF_ORDER,
    UNFINISHED,
    Change,
    Region,
    ThreadTimeline,
    Transition,
)
from gradprobe.history.regular_blocks import Run
from gradprobe.history.regular_runs import RunEffects, TakenRun
from gradprobe.recording.events import NOWHERE
from gradprobe.recording.rows import Modes


class RegionBuilder:
    """Regions and transitions found so far, those of PyTorch's own code only if ``include_torch``."""

    def __init__(self, phases: PhaseBuilder, *, include_torch: bool) -> None:
        self.found: list[Region] = []
        self.transitions: list[Transition] = []
        self.runs: list[TakenRun] = []
        self.hidden = 0
        self.row = 0
        """Number of the event that is being read."""
        self.region_rows: list[int] = []
        """Events that opened the regions of ``found``."""
        self.transition_rows: list[int] = []
        self._phases = phases
        self._include_torch = include_torch
        self._stacks: dict[tuple[int, str | None], list[Region]] = defaultdict(list)

    def stack(self, thread: int, task: str | None) -> list[Region]:
        """Return the open regions of a task of a thread, the innermost last."""
        return self._stacks[thread, task]

    def open(self, timeline: ThreadTimeline, change: Change, manager: str, form: str) -> Region:
        """Open a region of ``manager`` at ``change``, inside the innermost open region of its task."""
        stack = self.stack(timeline.thread, change.task)
        is_hidden = change.internal and not self._include_torch
        if form == "call" and stack and stack[-1].form == "call" and not is_hidden:
            self.close(stack[-1], timeline, change.time_ns, change.nodes)
        region = Region(
            number=0,
            manager=manager,
            form=form,
            site=change.site,
            thread=timeline.thread,
            task=change.task,
            start_ns=change.time_ns,
            before=change.before,
            inside=change.after,
            parent=stack[-1] if stack and not is_hidden else None,
            depth=sum(region.form != "call" for region in stack),
            internal=change.internal,
            start_nodes=change.nodes,
            phase=self._phases.current(timeline.thread, change.task),
        )
        if not is_hidden:
            stack.append(region)
            self._add(region)
        return region

    def _add(self, region: Region) -> None:
        self.found.append(region)
        self.region_rows.append(self.row)

    def take(self, run: Run, effects: RunEffects, timeline: ThreadTimeline) -> None:
        """Add the regular blocks of a run, inside the innermost open region of their thread."""
        stack = self.stack(timeline.thread, None)
        parent = stack[-1] if stack else None
        depth = sum(region.form != "call" for region in stack)
        phase = self._phases.current(timeline.thread, None)
        self.runs.append(TakenRun(run, timeline.thread, parent, depth, phase, effects.blocks_ns))
        self.hidden += effects.hidden_transitions
        if parent is not None:
            parent.child_ns += effects.blocks_ns
            parent.child_nodes += effects.blocks_nodes

    def close(self, region: Region, timeline: ThreadTimeline, time: int, nodes: int) -> None:
        """End ``region`` at an event of ``timeline``, and with it the plain calls made directly in it."""
        region.end_ns, region.end_nodes = time, nodes
        region.closed = True
        if region.thread != timeline.thread:
            region.irregular.append(OTHER_THREAD)
        stack = self.stack(region.thread, region.task)
        if stack and stack[-1] is region:
            stack.pop()
        elif region in stack:
            above = stack[stack.index(region) + 1 :]
            if all(r.form == "call" for r in above):
                for call in above:
                    call.end_ns, call.end_nodes, call.closed = time, nodes, True
                    _charge_parent(call)
                del stack[stack.index(region) :]
            else:
                region.irregular.append(OUT_OF_ORDER)
                stack.remove(region)
        _charge_parent(region)

    def abandon(self, thread: int, task: str | None, time: int, nodes: int) -> None:
        """End all that is open in a task, whose exits will not be seen."""
        stack = self.stack(thread, task)
        while stack:
            _leave_unfinished(stack.pop(), time, nodes)

    def open_earlier(
        self,
        timeline: ThreadTimeline,
        manager: str,
        form: str,
        site: int,
        before: Modes,
        inside: Modes,
        *,
        internal: bool,
    ) -> Region:
        """Open the region of an exit whose enter came before the recording, from the timeline's beginning."""
        region = Region(
            number=0,
            manager=manager,
            form="with" if form == "indirect" else form,
            site=NOWHERE if form == "indirect" else site,
            thread=timeline.thread,
            task=None,
            start_ns=timeline.began_ns,
            before=before,
            inside=inside,
            parent=None,
            depth=0,
            internal=internal,
            irregular=[ENTERED_EARLIER],
            phase=self._phases.at(timeline.thread, None, timeline.began_ns),
        )
        if self._include_torch or not internal:
            for other in self.found:
                if other.parent is None and other.task is None and other.thread == timeline.thread:
                    other.parent = region
                    region.child_ns += (other.end_ns or 0) - other.start_ns
            for run in self.runs:
                if run.parent is None and run.thread == timeline.thread:
                    run.parent = region
                    region.child_ns += run.blocks_ns
            self._add(region)
        return region

    def add_transition(self, timeline: ThreadTimeline, change: Change, region: Region, event: str) -> Transition:
        """Add the transition at an edge of ``region``."""
        transition = Transition(
            change.time_ns,
            timeline.thread,
            change.task,
            region.manager,
            region.form,
            event,
            change.before,
            change.after,
            region.depth,
            region,
            change.site,
            self._phases.current(timeline.thread, change.task),
        )
        if change.internal and not self._include_torch:
            self.hidden += 1
        else:
            self.transitions.append(transition)
            self.transition_rows.append(self.row)
        return transition

    def finish(self, timelines: dict[int, ThreadTimeline], end: int) -> None:
        """End what was never left with its thread or with the recording."""
        for region in self.found:
            if region.end_ns is None:
                timeline = timelines[region.thread]
                _leave_unfinished(region, end if timeline.ended_ns is None else timeline.ended_ns, timeline.last_nodes)
        self._mark_shared()

    def _mark_shared(self) -> None:
        """Mark the regions that asyncio tasks held while others of the thread ran; such a thread has no regular blocks."""
        threads: dict[int, list[Region]] = defaultdict(list)
        for region in sorted(self.found, key=lambda region: region.start_ns):
            threads[region.thread].append(region)
        for regions in threads.values():
            if any(region.task is not None for region in regions):
                for region in (*_find_begun_within_others(regions), *_find_with_others_begun_within(regions)):
                    if not region.is_shared:
                        region.is_shared = True
                        region.irregular.append(HELD_ACROSS_TASKS)


def _find_begun_within_others(regions: list[Region]) -> Iterator[Region]:
    """Yield the regions of tasks that began while one of another task was open."""
    latest: dict[str, int] = {}  # when the regions so far end, of the two tasks whose end last
    for region in regions:
        task = region.task
        if task is None:
            continue
        if any(end > region.start_ns for other, end in latest.items() if other != task):
            yield region
        latest[task] = max(latest.get(task, 0), region.end_ns or 0)
        if len(latest) > 2:
            del latest[min(latest, key=lambda known: latest[known])]


def _find_with_others_begun_within(regions: list[Region]) -> Iterator[Region]:
    """Yield the regions of tasks in which one of another task, or of none, began."""
    following: Region | None = None
    of_another_task: Region | None = None  # the first after ``following`` that is of another task than it
    for region in reversed(regions):
        if following is not None and following.task != region.task:
            of_another_task = following
        if region.task is not None and of_another_task is not None and of_another_task.start_ns < (region.end_ns or 0):
            yield region
        following = region


def _leave_unfinished(region: Region, time: int, nodes: int) -> None:
    region.end_ns, region.end_nodes = time, nodes
    if region.form != "call":
        region.irregular.append(UNFINISHED)
    _charge_parent(region)


def _charge_parent(region: Region) -> None:
    """Add a finished region to what its parent's own time leaves out."""
    parent = region.parent
    if parent is not None and region.end_ns is not None:
        parent.child_ns += region.end_ns - region.start_ns
        parent.child_nodes += region.nodes or 0
