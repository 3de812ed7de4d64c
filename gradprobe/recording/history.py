"""From events to what happened: transitions, the regions they pair into, probed calls, and the time under each mode.

This is the one place that knows what a sequence of events means:

* An exit finds its enter by the manager object, so blocks may close out of order and on other threads.
* A thread's modes must be, at each event, what the event before it left. If they are not, something changed them that
  no manager announced, and a transition ``unknown`` says so. PyTorch's own blocks count as announced even while hidden.
* Whether a constructor of ``set_grad_enabled`` was a plain call or the beginning of a block: see ``constructors.py``.
* An inference-mode object that is entered while open, or left out of order, does not end in the mode that it asks for.
  What such an event leaves is read from the event after it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from gradprobe.recording.constructors import Begun, constructors
from gradprobe.recording.events import (
    CALL,
    ENTER,
    EXIT,
    FOLDED,
    FOLDED_CALLS,
    FOLDED_END,
    INFERENCE_MODE,
    KIND,
    MANAGERS,
    NOT_COUNTED,
    NOT_READ,
    NOWHERE,
    RECORDING_BEGINS,
    RECORDING_ENDS,
    TALLY,
    THREAD,
    UNKNOWN,
)
from gradprobe.recording.records import (
    DEFAULT,
    EARLIER,
    OTHER_THREAD,
    OUT_OF_ORDER,
    REENTERED,
    UNFINISHED,
    Call,
    History,
    Lane,
    Mark,
    Region,
    Row,
    State,
    Transition,
)
from gradprobe.recording.store import Contents

Watch = Callable[[Sequence[Row]], Iterable[Row]]
"""Goes through rows and gives them on, showing how far it is."""


def interpret(contents: Contents, *, include_torch: bool, watch: Watch = iter) -> History:
    """Reads the events of ``contents``; those of PyTorch's own code are left out unless ``include_torch``."""
    return _Reader(contents, include_torch).read(watch)


class _Reader:
    def __init__(self, contents: Contents, include_torch: bool) -> None:
        self.contents = contents
        self.include_torch = include_torch
        self.sites = contents.sites
        self.names = contents.names
        self.origin = int(contents.meta.get("began_ns", 0))
        self.transitions: list[Transition] = []
        self.regions: list[Region] = []
        self.calls: list[Call] = []
        self.marks: list[Mark] = []
        self.lanes: dict[int, Lane] = {}
        self.open_regions: dict[int, list[Region]] = defaultdict(list)
        self.open_calls: dict[int, Call] = {}
        self.only_calls = bool(contents.meta.get("only_calls"))
        self.has_begun = self.only_calls  # the beginnings after its own are those of other recordings
        self.hidden = 0
        self.last_ns = 0

    def read(self, watch: Watch) -> History:
        rows = [row for block in self.contents.blocks for row in block.rows()]
        begun, skipped = constructors(rows, self.sites)
        for index, row in enumerate(watch(rows)):
            if index in skipped:
                continue
            self.last_ns = max(self.last_ns, row[1] - self.origin)
            op, kind = row[0], row[0] & KIND
            lane = self.lane(row)
            if op & ~KIND == THREAD:
                self.thread(lane, row)
            elif op & ~KIND == FOLDED:
                self.folded(lane, row)
            elif op & ~KIND == CALL:
                self.call(lane, row)
            elif op >= TALLY:
                self.operators(lane, row)
            elif kind == EXIT:
                self.exit(lane, row)
            elif kind == ENTER:
                self.enter(lane, row, begun.get(index))
            else:
                self.plain(lane, row)
        return self.finish()

    # Threads.

    def lane(self, row: Row) -> Lane:
        number, time = row[2], row[1] - self.origin
        lane = self.lanes.get(number)
        if lane is None:
            thread = self.contents.threads.get(number)
            is_new = thread is not None and not thread.inherited and thread.began_ns >= self.origin
            state = DEFAULT if is_new else None
            lane = self.lanes[number] = Lane(number, time, state, time, visible=state)
            lane.is_watched = is_new or self.only_calls
        return lane

    def thread(self, lane: Lane, row: Row) -> None:
        kind, time = row[0] & KIND, row[1] - self.origin
        if kind == RECORDING_BEGINS and not self.has_begun:
            self.has_begun = True
            lane.began_ns = lane.last_ns = 0
            lane.last_nodes = row[7]
            lane.state = lane.visible = _before(row, DEFAULT)
            lane.is_watched = True
        elif kind in (RECORDING_BEGINS, RECORDING_ENDS):
            self.arrive(lane, row, row[3], False, None)
        elif kind == EXIT:
            lane.advance(time, row[7])
            lane.ended_ns = time

    def arrive(self, lane: Lane, row: Row, site: int, internal: bool, task: str | None) -> State:
        """Brings ``lane`` up to an event at ``site``, and returns the modes before it; tells of changes unannounced."""
        before = _before(row, lane.state or DEFAULT)
        time = row[1] - self.origin
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
        if internal and not self.include_torch:
            lane.jumped = lane.jumped or jumped
            lane.state = before
            return before
        if (
            (jumped or lane.jumped)
            and lane.visible is not None
            and lane.visible != before
            and (self.include_torch or not lane.internal_open)
        ):
            self.unknown(lane, row, site, task, lane.visible, before)
        lane.jumped = False
        lane.state = lane.visible = before
        return before

    def leave(self, lane: Lane, after: State, internal: bool) -> None:
        lane.state = after
        if self.include_torch or not internal or (not lane.internal_open and not lane.jumped):
            lane.visible = after

    def unknown(self, lane: Lane, row: Row, site: int, task: str | None, before: State, after: State) -> None:
        """Notes a change that nothing announced, at the time and place where it was noticed."""
        time = row[1] - self.origin
        region = self.open(lane, time, task, UNKNOWN, "call", site, before, after, row[7])
        self.note(lane, time, task, region, "set", before, after, site, False)

    # Managers.

    def enter(self, lane: Lane, row: Row, begun: Begun | None) -> None:
        begin, site = (begun.constructor, begun.site) if begun is not None else (row, row[3])
        internal = self.is_internal(site)
        task = self.names.get(begin[6])
        before = self.arrive(lane, begin, site, internal, task)
        manager = MANAGERS[row[0] & ~KIND]
        after = _after(begin, before)
        time = row[1] - self.origin
        lane.advance(time, row[7])
        key = row[5]
        again = [r for r in self.open_regions[key] if r.thread == lane.thread and r.end_ns is None]
        region = self.open(lane, time, task, manager, self.form(site), site, before, after, row[7], internal=internal)
        self.open_regions[key].append(region)
        transition = self.note(lane, time, task, region, "enter", before, after, site, internal)
        if again and manager == MANAGERS[INFERENCE_MODE]:
            lane.doubtful = transition
        if internal:
            lane.internal_open += 1
        self.leave(lane, after, internal)

    def exit(self, lane: Lane, row: Row) -> None:
        opened = self.open_regions[row[5]]
        region = opened.pop() if opened else None
        internal = region.internal if region is not None else self.is_internal(row[3])
        task = region.task if region is not None else None
        site = row[3]
        if self.form(site) == "indirect" and region is not None and region.site != NOWHERE:
            site = region.site
        before = self.arrive(lane, row, site, internal, task)
        time = row[1] - self.origin
        is_inference = row[0] & ~KIND == INFERENCE_MODE
        if region is None:
            region = self.earlier(lane, row, before, internal)
        after = _after(row, region.before if is_inference else before)
        region.error = self.names.get(row[6], "")
        if region.site == NOWHERE:
            region.site = row[3]
        self.close(region, time, row[7] if region.thread == lane.thread else NOT_COUNTED, lane)
        # Two blocks of one address are two of one object only if both are left: the first may be dead and never left.
        for inner in region.reentries:
            inner.irregular.append(REENTERED)
        if opened and opened[-1].thread == region.thread:
            opened[-1].reentries.append(region)
        if internal:
            lane.internal_open = max(lane.internal_open - 1, 0)
        transition = self.note(lane, time, task, region, "exit", before, after, site, internal)
        if is_inference and (region.irregular or region.reentries or opened):
            lane.doubtful = transition
        self.leave(lane, after, internal)

    def plain(self, lane: Lane, row: Row) -> None:
        """A call of ``set_grad_enabled`` that begins no block, or its undoing when the object decorates a function."""
        site, time = row[3], row[1] - self.origin
        internal, task = self.is_internal(site), self.names.get(row[6])
        before = self.arrive(lane, row, site, internal, task)
        after = _after(row, before)
        region = self.open(lane, time, task, "set_grad_enabled", "call", site, before, after, row[7], internal=internal)
        self.note(lane, time, task, region, "set", before, after, site, internal)
        self.leave(lane, after, internal)

    def note(
        self,
        lane: Lane,
        time: int,
        task: str | None,
        region: Region,
        event: str,
        before: State,
        after: State,
        site: int,
        internal: bool,
    ) -> Transition:
        transition = Transition(
            time, lane.thread, task, region.manager, region.form, event, before, after, region.depth, region, site
        )
        if internal and not self.include_torch:
            self.hidden += 1
        else:
            self.transitions.append(transition)
        return transition

    # Regions.

    def open(
        self,
        lane: Lane,
        time: int,
        task: str | None,
        manager: str,
        form: str,
        site: int,
        before: State,
        after: State,
        nodes: int,
        *,
        internal: bool = False,
    ) -> Region:
        stack = lane.stacks[task]
        hidden = internal and not self.include_torch
        if form == "call" and stack and stack[-1].form == "call" and not hidden:
            self.close(stack[-1], time, nodes, lane)
        parent = stack[-1] if stack and not hidden else None
        depth = sum(region.form != "call" for region in stack)
        region = Region(
            number=0,
            manager=manager,
            form=form,
            site=site,
            thread=lane.thread,
            task=task,
            start_ns=time,
            before=before,
            inside=after,
            parent=parent,
            depth=depth,
            internal=internal,
            start_nodes=nodes,
        )
        if not hidden:
            stack.append(region)
            self.regions.append(region)
        return region

    def close(self, region: Region, time: int, nodes: int, lane: Lane) -> None:
        """Ends ``region``, and with it the plain calls made directly in it."""
        region.end_ns, region.end_nodes = time, nodes
        region.closed = True
        own = self.lanes[region.thread]
        if own is not lane:
            region.irregular.append(OTHER_THREAD)
        stack = own.stacks[region.task]
        if stack and stack[-1] is region:
            stack.pop()
        elif region in stack:
            above = stack[stack.index(region) + 1 :]
            if all(r.form == "call" for r in above):
                for call in above:
                    call.end_ns, call.end_nodes, call.closed = time, nodes, True
                    _charge(call)
                del stack[stack.index(region) :]
            else:
                region.irregular.append(OUT_OF_ORDER)
                stack.remove(region)
        _charge(region)

    def earlier(self, lane: Lane, row: Row, before: State, internal: bool) -> Region:
        """The region of an exit whose enter came before the recording; it spans what the recording saw of it."""
        manager = MANAGERS[row[0] & ~KIND]
        form = self.form(row[3])
        region = Region(
            number=0,
            manager=manager,
            form="with" if form == "indirect" else form,
            site=NOWHERE if form == "indirect" else row[3],
            thread=lane.thread,
            task=None,
            start_ns=lane.began_ns,
            before=DEFAULT if manager == MANAGERS[INFERENCE_MODE] else _after(row, before),
            inside=before,
            parent=None,
            depth=0,
            internal=internal,
            irregular=[EARLIER],
        )
        if self.include_torch or not internal:
            self.regions.append(region)
            for other in self.regions:
                if other.parent is None and other.thread == lane.thread and other.task is None and other is not region:
                    other.parent = region
                    region.child_ns += (other.end_ns or 0) - other.start_ns
        return region

    def folded(self, lane: Lane, row: Row) -> None:
        """Time that finished blocks took, which were added up and are no longer among the events."""
        time, stack = row[1] - self.origin, lane.stacks[self.names.get(row[6])]
        if row[0] == FOLDED_END:
            lane.advance(time, row[7])
            if stack and stack[-1].form == "call":
                self.close(stack[-1], time, row[7], lane)
            if lane.state is not None:
                self.leave(lane, _after(row, lane.state), False)
            return
        lane.advance(time, NOT_COUNTED)
        if row[0] == FOLDED_CALLS:
            # Where the thread's time counts anyway, that of its probed calls is in it.
            if lane.state is None:
                state = _after(row, DEFAULT)
                lane.ns_by_state[state] += row[5]
                lane.nodes_by_state[state] += row[7]
            return
        if lane.state is not None:
            lane.ns_by_state[lane.state] -= row[5]
            lane.nodes_by_state[lane.state] -= row[7]
        if stack:
            stack[-1].child_ns += row[5]
            stack[-1].child_nodes += row[7]

    def operators(self, lane: Lane, row: Row) -> None:
        """Operators that ran here, or what else has rows in an account: it belongs to the region that is open."""
        stack = lane.stacks[self.names.get(row[6])]
        region = stack[-1] if stack else None
        self.marks.append(Mark(row[0], row[5], region, row[2], row[3], row[1] - self.origin))

    # Probed calls.

    def call(self, lane: Lane, row: Row) -> None:
        kind, time, key, task = row[0] & KIND, row[1] - self.origin, row[5], self.names.get(row[6])
        self.arrive(lane, row, row[3], False, task if kind == ENTER else None)
        if kind == ENTER:
            lane.calls += 1
            waiting = self.open_calls.get(key)
            if waiting is not None:
                waiting.resumed_ns, waiting.resumed_nodes = time, row[7]
                waiting.steps += 1
            else:
                self.open_calls[key] = call = Call(key, row[3], row[2], task, time, time, row[7])
                self.calls.append(call)
        elif key in self.open_calls:
            call = self.open_calls[key]
            call.active_ns += time - call.resumed_ns
            if NOT_COUNTED in (row[7], call.resumed_nodes) or call.nodes is None:
                call.nodes = None
            else:
                call.nodes += row[7] - call.resumed_nodes
            if kind == EXIT:
                call.closed, call.error = True, self.names.get(row[6], "")
                del self.open_calls[key]
            lane.calls = max(lane.calls - 1, 0)
            if self.only_calls and not lane.calls:
                self.leave_call(lane, row, call)

    def leave_call(self, lane: Lane, row: Row, call: Call) -> None:
        """Outside of probed calls nothing was seen: no time counts, and what is open ends as far as can be told."""
        lane.state = lane.visible = None
        stack = lane.stacks[call.task]
        while stack and call.closed:
            region = stack.pop()
            region.end_ns, region.end_nodes = row[1] - self.origin, row[7]
            if region.form != "call":
                region.irregular.append(UNFINISHED)
            _charge(region)

    # The end.

    def finish(self) -> History:
        meta = self.contents.meta
        complete = "ended_ns" in meta
        end = max(int(meta["ended_ns"]) - self.origin, self.last_ns) if complete else self.last_ns
        for lane in self.lanes.values():
            if lane.ended_ns is None:
                lane.advance(end, NOT_COUNTED)
        for region in self.regions:
            if region.end_ns is None:
                self.unfinished(region, end)
        self.regions.sort(key=lambda region: region.start_ns)
        for number, region in enumerate(self.regions):
            region.number = number
        return History(
            self.transitions,
            self.regions,
            self.calls,
            self.marks,
            list(self.lanes.values()),
            self.hidden,
            end,
            complete,
        )

    def unfinished(self, region: Region, end: int) -> None:
        lane = self.lanes[region.thread]
        region.end_ns = lane.ended_ns if lane.ended_ns is not None else end
        region.end_nodes = lane.last_nodes
        if region.form != "call":
            region.irregular.append(UNFINISHED)
        _charge(region)

    def form(self, site: int) -> str:
        known = self.sites.get(site)
        return known.form if known is not None else "with"

    def is_internal(self, site: int) -> bool:
        known = self.sites.get(site)
        return known is not None and known.internal


def _charge(region: Region) -> None:
    """Adds a finished region to what its parent's own time leaves out."""
    parent = region.parent
    if parent is not None and region.end_ns is not None:
        parent.child_ns += region.end_ns - region.start_ns
        parent.child_nodes += region.nodes or 0


def _before(row: Row, known: State) -> State:
    """The modes before an event; ``known`` where they were not read."""
    return _mode(row[4], known[0]), _mode(row[4] >> 2, known[1])


def _after(row: Row, known: State) -> State:
    """The modes after an event; ``known`` where they were not read."""
    return _mode(row[4] >> 4, known[0]), _mode(row[4] >> 6, known[1])


def _mode(bits: int, known: bool) -> bool:
    return known if bits & 3 == NOT_READ else bool(bits & 3)
