"""A session: one queue of events, between the hooks that fill it and the sinks that receive them.

Hooks append to the queue in the order of events. Several times a second a background thread empties it, encodes the
tuples as blocks of numbers, and passes each block to the recordings that were open at that point of the queue.

In reading order: ``installation`` (the hooks), ``emit_chain`` (from a hook to the queue), ``writer_thread``, ``routing``
(from the queue to the sinks).
"""

from __future__ import annotations

import threading
from _thread import get_ident
from collections import deque

from gradprobe.capture.autograd.node_counter import find_node_counter
from gradprobe.capture.clock import Clock
from gradprobe.capture.compile.dynamo import DynamoObserver
from gradprobe.capture.detectors.detection_log import DetectionLog
from gradprobe.capture.detectors.leaked_modes import LeakedModeDetector
from gradprobe.capture.detectors.thread_handoff import ThreadHandoffDetector
from gradprobe.capture.device.accelerator import Accelerator, current_accelerator
from gradprobe.capture.device.device_timer import DeviceTimer
from gradprobe.capture.emit_chain import EmitChain
from gradprobe.capture.fault_log import FaultLog
from gradprobe.capture.installation import Installation
from gradprobe.capture.location.frames import FrameClassifier
from gradprobe.capture.location.tasks import TaskLabels, may_have_event_loops
from gradprobe.capture.modes.manager_hooks import Emit
from gradprobe.capture.modes.profiler_ranges import ProfilerRanges
from gradprobe.capture.ops.thread_registry import ThreadRegistry
from gradprobe.capture.pipeline.encoding import EventEncoder
from gradprobe.capture.pipeline.queue_encoder import QueueEncoder
from gradprobe.capture.routing import Router
from gradprobe.capture.sinks import OPS, Demand, Sink
from gradprobe.capture.writer_thread import WriterThread
from gradprobe.phases import OpenPhase, list_open
from gradprobe.recording.events import AUTOMATIC_PHASE, ENTER, EXIT, NOT_READ, OP_ROWS, PHASE, Event
from gradprobe.recording.notes import NoteKind
from gradprobe.recording.symbols import SymbolTables


class Session:
    """The hooks, the queue and the sinks of one clock. All methods but ``emit`` are called under ``lock``."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.tables = SymbolTables()
        self.tasks = TaskLabels()
        self._demand = Demand()
        self._faults = FaultLog()
        self.fault = self._faults.report
        """Note an error of gradprobe's own code, which the user's program must not notice."""
        self._attached_from: dict[int, int] = {}
        self._queue: deque[Event] = deque()
        self._emit: Emit = self._queue.append
        self._encoder = EventEncoder(self.tables)
        self._mode_log = DetectionLog(FrameClassifier(), clock.now)
        """Detections about modes, at every level."""
        self._leaks = leaks = LeakedModeDetector(self._mode_log)
        self._operators = ThreadRegistry(self._queue.append, clock.now, self.fault, self.tasks, self._mode_log, leaks)
        self._dynamo = DynamoObserver(self._operators.detection_log, self.fault, clock.now, self.emit, self._task_label)
        current = current_accelerator()
        self.devices = None if current is None else self.make_device_timer(current)
        self._ranges = ProfilerRanges()
        self._installation = Installation(
            self._demand,
            self._operators,
            self._dynamo,
            leaks,
            ThreadHandoffDetector(self._mode_log, clock.now, self._operators.resolve_pending, self.fault),
            self.tasks,
            self._faults,
            now=clock.now,
            emit=self.emit,
            append=self._queue.append,
            lock=lambda: self.lock,
            on_phase=self.mark_phase,
        )
        self._writer = WriterThread(self, self._queue, self.fault)
        self._chain = EmitChain(self._queue, self._demand, self._operators, self._ranges, self._writer.wait)
        queue_encoder = QueueEncoder(
            self._encoder, self.tables.operations, self._operators.codes.held, clock.now, self.fault
        )
        self._router = Router(self._queue, queue_encoder, self.fault)

    # Run by the program's threads.

    def emit(self, event: Event) -> None:
        """Queue ``event`` as a hook would."""
        self._emit(event)

    def emit_returned(self, row: tuple[int, ...]) -> None:
        """Queue the effects of a probed call and of its result; the row begins with the call's key."""
        self._queue.append((OP_ROWS, "returns", None, [row]))

    def mark_phase(self, phase: OpenPhase, begins: bool) -> None:
        """Queue the begin or the end of a phase, after the operators that its thread has run so far."""
        try:
            self._operators.resolve_pending()
            kind = EXIT if not begins else AUTOMATIC_PHASE & ~PHASE if phase.is_automatic else ENTER
            place, unread = (phase.offset, phase.name), (NOT_READ,) * 4
            event = (PHASE | kind, self.clock.now(), phase.thread, phase.code, place, *unread, phase.key)
            self._queue_with_nodes((*event, self._task_label()))
            if not phase.is_automatic:
                self._operators.on_phase()
        except Exception as error:
            self.fault(error)

    def annotate_exception(self, error: BaseException) -> None:
        """Add to an exception of the program what level ops knows of the tensor that it is about."""
        self._operators.annotate_exception(error)

    def make_device_timer(self, accelerator: Accelerator) -> DeviceTimer:
        """Return a timer of this session for the blocks that use ``accelerator``."""
        return DeviceTimer(accelerator, self.clock.now, self._queue_with_nodes, self._task_label, self.fault)

    def _queue_with_nodes(self, event: Event) -> None:
        nodes = find_node_counter()
        # Events at one level have equally many columns. Rows that are not encoded yet have columns of their own.
        self._queue.append(event if event[0] == OP_ROWS or nodes is None else (*event, nodes()))

    def _task_label(self) -> str | None:
        return self.tasks.label() if may_have_event_loops() else None

    # Sinks come and go.

    @property
    def is_idle(self) -> bool:
        """Return whether nothing records."""
        return self._demand.is_idle

    def attach(self, sink: Sink) -> None:
        """Install the hooks unless they are in place, and let ``sink`` receive all events from here on."""
        self._pass_detections()  # those of a probed call or another recording are none of this one
        sinks = self._demand.sinks
        sinks.append(sink)
        try:
            self._installation.install(self._emit)
        except BaseException:
            sinks.remove(sink)
            raise
        self.choose_emit()
        self._encoder.begin_recording()
        self._leaks.begin_recording(get_ident())
        self._router.open(sink)
        for phase in list_open():
            self.mark_phase(phase, True)
        self._operators.show_parts(self._demand.counts_parts)
        if sink.counts_operators:
            self._operators.attach_thread()
            self._attached_from[id(sink)] = get_ident()
            self.choose_emit()  # with the observer of operators, which has been made now
        self._writer.start()

    def detach(self, sink: Sink) -> None:
        """Deliver the remaining events of ``sink``, and remove the hooks if it was the last one."""
        if sink.counts_operators:
            self._operators.report_kept()
            # When it is stopped in another thread, the operators of that thread may belong to another recording.
            if self._attached_from.pop(id(sink), None) == get_ident():
                self._operators.detach_thread(is_reported=True)
            else:
                self._operators.resolve_pending()
            self._operators.emit_live_inference_tensors()
        if self.devices is not None and sink.counts_nodes and sink.keeps_events:
            self.devices.read()
            for text, times in self.devices.describe_missing_times():
                for other in self._demand.sinks:
                    other.note(NoteKind.DEVICE, text, times)
        self._operators.flush()  # of threads that have no event of their own
        self._router.close(sink)
        self._demand.sinks.remove(sink)
        self._operators.show_parts(self._demand.counts_parts)
        if not self._demand.counts_operators:
            self._operators.stop()
            self._operators.paths.forget()
        self._installation.uninstall_if_idle()
        self.choose_emit()
        if not self._demand.names_ranges:
            self._ranges.close()
        self.empty_queue()
        self.flush(sink)

    def register(self, sink: Sink) -> int:
        """Return a number for a sink of probed calls only. It is forgotten with the sink."""
        with self.lock:
            return self._router.register(sink)

    def begin_call(self, level: str) -> None:
        """Begin a probed call in this thread, and record its events at ``level``."""
        with self.lock:
            calls = self._demand.calls
            calls[level] += 1
            if calls[level] == 1:
                self._installation.install(self._emit)
            if level == OPS:
                self._operators.attach_thread()
            if calls[level] == 1:
                self.choose_emit()

    def end_call(self, level: str) -> None:
        """End a probed call after its last event was queued."""
        with self.lock:
            calls = self._demand.calls
            calls[level] -= 1
            if level == OPS:
                self._operators.detach_thread()
            if not self._demand.counts_operators:
                self._operators.stop()
            if calls[level] == 0:
                self._installation.uninstall_if_idle()
                self.choose_emit()
            self._writer.start()

    def abandon(self) -> None:
        """Restore PyTorch in a forked child, without touching any file that the parent writes to."""
        self.lock = threading.RLock()
        self._installation.abandon()
        self._operators.abandon()
        self._demand.sinks.clear()
        self._demand.calls.clear()
        self._attached_from.clear()
        self._router.abandon()
        self._writer.is_running = False
        self.choose_emit()

    def has_seen_thread(self, ident: int) -> bool:
        """Return whether any event came from the live thread with this identifier."""
        return self._encoder.has_seen_thread(ident)

    # Run by the writer thread.

    def drain(self, *, takes_all: bool = False) -> None:
        """Empty the queue into the sinks, and let them write; ``takes_all`` with what is else read once a second."""
        self.empty_queue(close_tallies=True)
        self.flush(takes_all=takes_all)

    def choose_emit(self) -> None:
        """Let the hooks emit by the cheapest chain that serves all sinks; a long queue adds a wait."""
        self._emit = self._chain.build(self.devices)
        self._installation.redirect(self._emit)

    def enable_task_labels(self) -> None:
        """Let the hooks look up the asyncio task of each event from now on."""
        self._installation.enable_task_labels()

    def empty_queue(self, *, close_tallies: bool = False) -> None:
        """Deliver the events that are in the queue."""
        self._operators.flush()
        self._router.empty_queue(close_tallies=close_tallies)

    def flush(self, *leaving: Sink, takes_all: bool = False) -> None:
        """Pass faults, detections and compilations to all sinks and those ``leaving``, and let them write."""
        faults = self._faults.take()
        compiled = self._dynamo.take()
        flow = self._operators.flow.take(at_once=takes_all or bool(leaving))
        ledgers = [*flow, *self._operators.memory.take()]
        self._pass_detections(*leaving)
        for sink in (*self._demand.sinks, *self._router.call_sinks, *leaving):
            for text, times in faults.items():
                sink.fault(text, times)
            for kind, text, times in ledgers if sink.counts_operators else ():
                sink.note(kind, text, times)
            for kind, text in compiled:
                sink.note(kind, text)
            sink.flush()
        if not self._router.keeps_events and not any(s.keeps_events for s in (*self._demand.sinks, *leaving)):
            self._encoder.forget()

    def _pass_detections(self, *leaving: Sink) -> None:
        """Pass detections to all sinks and those ``leaving``."""
        seen, modes = self._operators.detection_log.take(), self._mode_log.take()
        for sink in (*self._demand.sinks, *self._router.call_sinks, *leaving):
            for text, times in (*modes, *(seen if sink.counts_operators else ())):
                sink.note(NoteKind.DETECTION, text, times)
