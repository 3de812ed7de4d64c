"""A session: what is installed in the process while anything records, and the thread that carries events away.

Hooks append to one queue, in the order in which things happened. Every quarter of a second a background thread empties
it, gives the tuples numbers for names, and hands the block to each recording that was open at that point of the queue.
"""

from __future__ import annotations

import _thread
import sys
import threading
import time
import weakref
from _thread import get_ident
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from operator import itemgetter
from types import FrameType
from typing import Protocol

import torch

from gradprobe.capture.autograd.backward import backward_patches, reachable_ranges
from gradprobe.capture.clock import Clock
from gradprobe.capture.compile.dynamo import DynamoObserver
from gradprobe.capture.device import accelerator
from gradprobe.capture.device.device_timer import DeviceTimer
from gradprobe.capture.location.callers import TaskLabels, loop_patches, may_have_event_loops, thread_patches
from gradprobe.capture.location.signal_handlers import is_raised_by_signal_handler
from gradprobe.capture.modes import manager_hooks
from gradprobe.capture.modes.profiler_ranges import ProfilerRanges
from gradprobe.capture.ops.dispatch_mode import skip_when_compiling
from gradprobe.capture.ops.thread_registry import ThreadRegistry
from gradprobe.capture.patching.patches import Patches
from gradprobe.capture.pipeline.aggregation import OpAggregator, has_raw_events
from gradprobe.capture.pipeline.encoding import EventEncoder
from gradprobe.recording.events import (
    ACTION_MASK,
    BACKWARD_PASS,
    CALL,
    ENTER,
    EXIT,
    NOT_READ,
    OP_ROWS,
    WRITER_MARK,
    Event,
    EventBlock,
)
from gradprobe.recording.notes import NoteKind
from gradprobe.recording.op_rows import OpRows
from gradprobe.recording.symbols import SymbolTables

TICK_S = 0.05
TICKS_PER_FLUSH = 5
TICKS_PER_TALLY = 15
BACKLOG = 50_000
_CHUNK = 4_096  # as many tuples as stay in the processor's cache while their columns are read
GRAPH, OPS = "graph", "ops"
CALL_BITS = 40
"""The key of a probed call is the number of its sink above, and a number of its own in, this many bits."""
_OP = itemgetter(0)


class Sink(Protocol):
    """One who takes events. ``counts_nodes`` asks for the node counter with each, ``counts_operators`` for operators,
    ``names_ranges`` for blocks as ranges in the trace of torch.profiler; ``keeps_events`` says that what the numbers in
    an event stand for must stay known."""

    keeps_events: bool
    counts_nodes: bool
    counts_operators: bool
    names_ranges: bool

    def accept(self, block: EventBlock) -> None: ...
    def flush(self) -> bool: ...
    def fault(self, text: str, count: int) -> None: ...
    def note(self, kind: str, text: str, count: int = 1) -> None: ...


def find_node_counter() -> Callable[[], int] | None:
    """PyTorch's count of the autograd nodes this thread has constructed; None where PyTorch does not tell."""
    return getattr(torch.autograd, "_get_sequence_nr", None)


class Session:
    """What is installed while there is a sink. All methods but ``emit`` are called under ``lock``."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.tables = SymbolTables()
        self.tasks = TaskLabels()
        self.sinks: list[Sink] = []
        self._watched_from: dict[int, int] = {}
        self._queue: deque[Event] = deque()
        self._emit: Callable[[Event], object] = self._queue.append
        self._patches = Patches()
        self._hooks: manager_hooks.ManagerHooks | None = None
        self._installed = 0
        self._faults: Counter[str] = Counter()
        self._packer = EventEncoder(self.tables)
        self._operators = ThreadRegistry(self._queue.append, clock.now, self.fault, self.tasks)
        self._compilations = DynamoObserver(
            self._operators.sightings, self.fault, clock.now, self.emit, self._task_label
        )
        current = accelerator.current_accelerator()
        self.devices = None if current is None else self.make_device_timer(current)
        self._tallier = OpAggregator(self.tables.operations, self._operators.codes.held, clock.now)
        self._ranges = ProfilerRanges()
        self._open: list[Sink] = []
        self._registered = 0
        self._call_sinks: weakref.WeakValueDictionary[int, Sink] = weakref.WeakValueDictionary()
        self._calls: Counter[str] = Counter()
        self._calling: dict[int, list[Sink]] = {}
        self._writing = self._is_slowed = False

    # What the program's threads run.

    def emit(self, event: Event) -> None:
        """Queues ``event`` as a hook would."""
        self._emit(event)

    def make_device_timer(self, accelerator: accelerator.Accelerator) -> DeviceTimer:
        """What takes the times of ``accelerator`` for this session."""
        return DeviceTimer(accelerator, self.clock.now, self._queue_with_nodes, self._task_label, self.fault)

    def _queue_with_nodes(self, event: Event) -> None:
        nodes = find_node_counter()
        # Events of one kind of capture have equally many columns; rows on their way have columns of their own.
        self._queue.append(event if event[0] == OP_ROWS or nodes is None else (*event, nodes()))

    def _task_label(self) -> str | None:
        return self.tasks.label() if may_have_event_loops() else None

    def fault(self, error: Exception) -> None:
        """Notes an error of our own, which the program must not notice. One that a handler of signals raised while our code
        happened to run is the program's, and goes on to it."""
        if is_raised_by_signal_handler(error):
            raise error
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f" at {trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace is not None else ""
        self._faults[f"{type(error).__name__}: {error}{where}"[:300]] += 1

    # Sinks come and go.

    def attach(self, sink: Sink) -> None:
        """Installs the hooks if none are, and lets ``sink`` have what happens from here on."""
        self.sinks.append(sink)
        try:
            self._install()
        except BaseException:
            self.sinks.remove(sink)
            raise
        self._choose_emit()
        self._packer.begin_recording()
        self._queue.append(_mark(WRITER_MARK | ENTER, sink))
        if sink.counts_operators:
            self._operators.attach_thread()
            self._watched_from[id(sink)] = get_ident()
        self._start_writing()

    def detach(self, sink: Sink) -> None:
        """Gives ``sink`` the rest of its events; the last one to go takes the hooks along."""
        if sink.counts_operators:
            # Stopped in another thread, it must not take away what other recordings watch there.
            if self._watched_from.pop(id(sink), None) == get_ident():
                self._operators.detach_thread()
            else:
                self._operators.resolve_pending()
            self._operators.emit_live_inference_tensors()
        if self.devices is not None and sink.counts_nodes and sink.keeps_events:
            self.devices.read()
            for text, times in self.devices.describe_missing_times():
                for other in self.sinks:
                    other.note(NoteKind.DEVICE, text, times)
        self._queue.append(_mark(WRITER_MARK | EXIT, sink))
        self.sinks.remove(sink)
        if not self.counts_operators:
            self._operators.stop()
            self._operators.paths.forget()
        self._uninstall_if_idle()
        self._choose_emit()
        if not any(other.names_ranges for other in self.sinks):
            self._ranges.close()
        self._empty_queue()
        self._flush(sink)

    def register(self, sink: Sink) -> int:
        """A number for a sink that wants the events of probed calls only; forgotten with the sink."""
        with self.lock:
            self._registered += 1
            self._call_sinks[self._registered] = sink
            return self._registered

    def begin_call(self, level: str) -> None:
        """A probed call begins in this thread: its events are wanted from here on."""
        with self.lock:
            self._calls[level] += 1
            if self._calls[level] == 1:
                self._install()
                self._choose_emit()
            if level == OPS:
                self._operators.attach_thread()

    def end_call(self, level: str) -> None:
        """The call has ended and its last event is queued."""
        with self.lock:
            self._calls[level] -= 1
            if level == OPS:
                self._operators.detach_thread()
            if not self.counts_operators:
                self._operators.stop()
            if self._calls[level] == 0:
                self._uninstall_if_idle()
                self._choose_emit()
            self._start_writing()

    @property
    def counts_operators(self) -> bool:
        """Whether anything records at level ops."""
        return self._calls[OPS] > 0 or any(sink.counts_operators for sink in self.sinks)

    @property
    def counts_nodes(self) -> bool:
        """Whether anything records at level graph or above."""
        return self._calls[GRAPH] > 0 or self._calls[OPS] > 0 or any(sink.counts_nodes for sink in self.sinks)

    def annotate_exception(self, error: BaseException) -> None:
        """Adds to an exception of the program what is known of the tensor that it is about, at level ops."""
        self._operators.annotate_exception(error)

    def emit_returned(self, row: tuple[int, ...]) -> None:
        """Queues what a probed call returned; the row begins with the call's key."""
        self._queue.append((OP_ROWS, "returns", None, [row]))

    def _thread_begins(self, started: threading.Thread) -> int | None:
        try:
            if any(sink.counts_operators for sink in self.sinks):
                self._operators.attach_thread()
                if self.counts_operators:
                    return self._operators.handoffs.taken(started)
                self._leave_again()
        except Exception as error:
            self.fault(error)
        return None

    def _leave_again(self) -> None:
        """The last recording ended while this thread began. Without the lock until then: who started the thread waits for
        it, and may hold that."""
        self._operators.detach_thread_fully()
        if self.lock.acquire(timeout=1):
            try:
                if not self.counts_operators:
                    self._operators.stop()
            finally:
                self.lock.release()

    def _thread_ends(self, started: threading.Thread, begun: object) -> None:
        self._operators.handoffs.done(started, begun if isinstance(begun, int) else None)
        self._operators.detach_thread()

    def _backward_begins(self, outputs: list[torch.Tensor], frame: FrameType) -> None:
        if self.counts_nodes:
            runs = reachable_ranges(outputs)
            if self.counts_operators:
                self._operators.backward(outputs, runs, frame)
            if runs:
                marker = (BACKWARD_PASS, self.clock.now(), get_ident(), 0, 0, None)
                self._queue.append((OP_ROWS, "backwards", marker, runs))

    @property
    def is_idle(self) -> bool:
        return not self.sinks and not self._calls.total()

    def _install(self) -> None:
        if self._patches.are_applied:
            return
        self._patches.reclaim()
        if self._hooks is None or not self._hooks.fit():
            if self._hooks is not None:
                self._hooks.redirect(_nowhere)  # some of them may be buried under those of another tool
            self._hooks = manager_hooks.build_hooks(self._emit, self.clock.now, self.tasks, self.fault)
        if may_have_event_loops():
            self._watch_tasks()
        self._installed = installed = self._installed + 1

        def is_live() -> bool:
            # What is buried under another tool's is called for longer, and beneath the next would do everything twice.
            return installed == self._installed

        def backward_begins(outputs: list[torch.Tensor], frame: FrameType) -> None:
            if is_live():
                self._backward_begins(outputs, frame)

        run_inside_calls = [*self._hooks.patches, *backward_patches(backward_begins, self.fault)]
        skip_when_compiling(*(patch.replacement for patch in run_inside_calls))
        self._patches.apply(
            [
                *run_inside_calls,
                *thread_patches(self.emit, self.clock.now, self._thread_begins, self._thread_ends, self.fault, is_live),
                *loop_patches(self._watch_tasks, self.fault),
            ]
        )
        self._compilations.begin()

    def _uninstall_if_idle(self) -> None:
        if self.is_idle:
            self._compilations.stop()
            for name in self._patches.restore():
                self._faults[f"{name} was replaced by another tool meanwhile, and was left as it is"] += 1

    def _choose_emit(self) -> None:
        """Points the hooks at the cheapest way that serves all sinks and, while the queue is long, slows them down."""
        append, nodes = self._queue.append, find_node_counter()
        emit: Callable[[Event], object] = append
        if self.is_idle:
            # A hook that is buried under another tool's is called for as long as that stays; nobody empties the queue.
            emit = _nowhere
        elif self.counts_operators and nodes is not None:
            emit = self._emit_after_operators(nodes)
        elif nodes is not None and self.counts_nodes:
            nodes_now = nodes

            def emit(event: Event) -> None:
                append((*event, nodes_now()))

        if self.devices is not None and any(sink.counts_nodes and sink.keeps_events for sink in self.sinks):
            emit = self.devices.around(emit)

        if any(sink.names_ranges for sink in self.sinks):
            emit = self._ranges.around(emit)

        if len(self._queue) > BACKLOG:
            promptly = emit

            def emit(event: Event) -> None:
                promptly(event)
                if len(self._queue) > BACKLOG:
                    self._let_writer_catch_up()

        self._emit = emit
        if self._hooks is not None:
            self._hooks.redirect(emit)

    def _emit_after_operators(self, nodes: Callable[[], int]) -> Callable[[Event], object]:
        """Emits what the thread's operators turned out to have done, before the event that ends their stretch."""
        append, operators = self._queue.append, self._operators

        def emit(event: Event) -> None:
            operators.event(event)
            append((*event, nodes()))

        return emit

    def _watch_tasks(self) -> None:
        if self._hooks is not None:
            self._hooks.enable_task_labels()

    def _let_writer_catch_up(self) -> None:
        # A long wait now and then: two threads that hand the interpreter back and forth get little done.
        for _ in range(100):
            time.sleep(0.002)
            if len(self._queue) < BACKLOG // 4 or not self._writing:
                return

    # The writing thread.

    def _start_writing(self) -> None:
        if not self._writing:
            self._writing = True
            # Not a threading.Thread: the program may count those.
            _thread.start_new_thread(self._write, ())

    def _write(self) -> None:
        for tick in count(1):
            time.sleep(TICK_S / 10 if self._is_slowed else TICK_S)
            with self.lock:
                if self.is_idle and not self._queue:
                    self._writing = False
                    self._safely(self._flush)
                    return
                self._safely(lambda tick=tick: self._tick(tick))  # type: ignore[misc]

    def _tick(self, tick: int) -> None:
        backlog = len(self._queue)
        if self._is_slowed or backlog > BACKLOG:
            self._is_slowed = backlog > BACKLOG // 4
            self._choose_emit()
        if "uvloop" in sys.modules:
            self._watch_tasks()
        self._empty_queue(close_tallies=tick % TICKS_PER_TALLY == 0)
        if tick % TICKS_PER_FLUSH == 0:
            self._flush()

    def _safely(self, step: Callable[[], object]) -> None:
        # The thread that all recordings are written by must not end.
        try:
            step()
        except Exception as error:
            self.fault(error)

    def drain(self) -> None:
        """Empties the queue into the sinks, and has them write."""
        self._empty_queue(close_tallies=True)
        self._flush()

    def _empty_queue(self, *, close_tallies: bool = False) -> None:
        self._operators.flush()
        pop = self._queue.popleft
        blocks: list[EventBlock] = []
        # What comes in meanwhile waits for the next round, or this one might never end.
        left = len(self._queue)
        while left:
            events = [pop() for _ in range(min(left, _CHUNK))]
            left -= len(events)
            try:
                self._route(events, blocks)
            except Exception as error:
                self.fault(error)
        if close_tallies:
            self._pack([], blocks, close_tallies=True)
        self._deliver(blocks)

    def _flush(self, *leaving: Sink) -> None:
        faults, self._faults = self._faults, Counter()
        seen, compiled = self._operators.sightings.take(), self._compilations.take()
        for sink in (*self.sinks, *self._call_sinks.values(), *leaving):
            for text, times in faults.items():
                sink.fault(text, times)
            for text, times in seen if sink.counts_operators else ():
                sink.note(NoteKind.DETECTION, text, times)
            for kind, text in compiled:
                sink.note(kind, text)
            sink.flush()
        if not self._call_sinks and not any(sink.keeps_events for sink in (*self.sinks, *self._open, *leaving)):
            self._packer.forget()

    def abandon(self) -> None:
        """In a forked child: puts PyTorch back as it was, and touches nothing that the parent writes to."""
        self.lock = threading.RLock()
        self._patches.restore()
        self._compilations.stop()
        self._operators.detach_thread_fully()
        self._operators.stop()
        self._queue.clear()
        self.sinks.clear()
        self._watched_from.clear()
        self._calls.clear()
        self._call_sinks.clear()
        self._open.clear()
        self._calling.clear()
        self._writing = False
        self._choose_emit()

    # From tuples to blocks.

    def _route(self, events: list[Event], blocks: list[EventBlock]) -> None:
        """Adds ``events`` to ``blocks``; at a mark, what has gathered is delivered to those it is for."""
        start = 0
        for index, event in enumerate(events) if max(map(_OP, events)) >= WRITER_MARK else ():
            if event[0] >= WRITER_MARK:
                self._pack(events[start:index], blocks, close_tallies=True)
                start = index + 1
                self._deliver(blocks)
                self._apply_mark(event[0], event[10])
        self._pack(events[start:] if start else events, blocks)

    def _apply_mark(self, op: int, sink: Sink) -> None:
        if op == WRITER_MARK | ENTER:
            self._open.append(sink)
        elif sink in self._open:
            self._open.remove(sink)

    def _deliver(self, blocks: list[EventBlock]) -> None:
        if not blocks:
            return
        block = EventBlock.joined(blocks)
        blocks.clear()
        for sink in self._open:
            sink.accept(block)
        if self._call_sinks or self._calling:
            self._deliver_calls(block)

    def _deliver_calls(self, block: EventBlock) -> None:
        picked: dict[Sink, list[int]] = {}
        columns = (block.op.tolist(), block.thread.tolist(), block.key.tolist())
        for index, (op, thread, key) in enumerate(zip(*columns, strict=True)):
            sink = self._call_sinks.get(key >> CALL_BITS) if op & ~ACTION_MASK == CALL else None
            calling = self._calling.setdefault(thread, [])
            if sink is not None and op == CALL | ENTER:
                calling.append(sink)
            for taker in set(calling):
                picked.setdefault(taker, []).append(index)
            if sink in calling and op != CALL | ENTER:
                calling.remove(sink)
            if not calling:
                del self._calling[thread]
        for sink, indices in picked.items():
            sink.accept(block.select(indices))
        self._deliver_returned(block)

    def _deliver_returned(self, block: EventBlock) -> None:
        """Rows of probed calls go by the number of the sink, since they may come without the event of the call's end."""
        for number, sink in self._call_sinks.items() if "returns" in block.accounts else ():
            rows = block.accounts["returns"]
            mine = rows[rows["key"] >> CALL_BITS == number]
            if len(mine):
                sink.accept(replace(EventBlock.of([]), accounts={"returns": mine}))

    def _pack(self, events: list[Event], blocks: list[EventBlock], *, close_tallies: bool = False) -> None:
        accounts: OpRows = {}
        if self._tallier.has_open_tallies or has_raw_events(events):
            events, accounts = self._tallier.expand(events, close_tallies=close_tallies)
        packed = self._packed(events)
        if accounts:
            packed.append(replace(EventBlock.of([]), accounts=accounts))
        blocks += packed

    def _packed(self, events: list[Event]) -> list[EventBlock]:
        if not events:
            return []
        try:
            return [self._packer.pack(events)]
        except Exception as error:
            if len(events) == 1:
                self.fault(error)
                return []
            # One event that makes no sense costs itself, not its neighbours.
            middle = len(events) // 2
            return self._packed(events[:middle]) + self._packed(events[middle:])

    def has_seen_thread(self, ident: int) -> bool:
        """Whether any event came from the live thread with this identifier."""
        return self._packer.has_seen_thread(ident)


def _nowhere(event: Event) -> None:
    """Lets an event go that nobody records."""


def _mark(op: int, sink: Sink) -> Event:
    return (op, 0, 0, None, 0, NOT_READ, NOT_READ, NOT_READ, NOT_READ, 0, sink)
