"""The patches and hooks that are in place while anything records, and the callbacks that they reach."""

from __future__ import annotations

import threading
from _thread import get_ident
from collections.abc import Callable
from types import FrameType

import torch

from gradprobe.capture.autograd.backward import backward_patches, reachable_ranges
from gradprobe.capture.automatic_phases import AutomaticPhases
from gradprobe.capture.compile.dynamo import DynamoObserver
from gradprobe.capture.detectors.leaked_modes import LeakedModeDetector
from gradprobe.capture.detectors.thread_handoff import ThreadHandoffDetector
from gradprobe.capture.emit_chain import discard
from gradprobe.capture.fault_log import FaultLog
from gradprobe.capture.location.tasks import TaskLabels, loop_patches, may_have_event_loops
from gradprobe.capture.location.threads import thread_patches
from gradprobe.capture.modes.manager_hooks import Emit, ManagerHooks, build_hooks
from gradprobe.capture.ops.native.loader import use_core_if_built
from gradprobe.capture.ops.thread_registry import ThreadRegistry
from gradprobe.capture.patching.compile_skip import skip_when_compiling
from gradprobe.capture.patching.patches import Patches
from gradprobe.capture.sinks import Demand
from gradprobe.phases import Listener, connect, disconnect
from gradprobe.recording.events import BACKWARD_PASS, OP_ROWS


class Installation:
    """The patches of one session.

    Args:
        demand: The present needs of sinks and probed calls.
        operators: The registry that observes the operators of each thread.
        dynamo: The observer of ``torch.compile``.
        leaks: The detector of modes that are left changed.
        handoffs: The detector of work that does not get the mode of the thread that submitted it.
        tasks: The labels of asyncio tasks.
        faults: Receives gradprobe's own errors.
        now: The clock, in nanoseconds.
        emit: Emits an event by the present chain.
        append: Puts an event into the queue without any chain.
        lock: Returns the session's lock, which is another one after a fork.
        on_phase: Called at each begin and end of a phase of the program.
    """

    def __init__(
        self,
        demand: Demand,
        operators: ThreadRegistry,
        dynamo: DynamoObserver,
        leaks: LeakedModeDetector,
        handoffs: ThreadHandoffDetector,
        tasks: TaskLabels,
        faults: FaultLog,
        *,
        now: Callable[[], int],
        emit: Emit,
        append: Emit,
        lock: Callable[[], threading.RLock],
        on_phase: Listener,
    ) -> None:
        self._demand, self._operators, self._dynamo, self._tasks = demand, operators, dynamo, tasks
        self._leaks, self._handoffs = leaks, handoffs
        self._faults, self._fault = faults, faults.report
        self._now, self._emit, self._append, self._lock, self._on_phase = now, emit, append, lock, on_phase
        self._phases = AutomaticPhases()
        self._patches = Patches()
        self._hooks: ManagerHooks | None = None
        self._installed = 0
        self._counts_nodes = self._counts_operators = False

    def install(self, emit: Emit) -> None:
        """Apply all patches unless they are in place; new hooks pass their events to ``emit``."""
        if self._patches.are_applied:
            return
        self._patches.reclaim()
        if self._hooks is None or not self._hooks.are_current():
            if self._hooks is not None:
                self._hooks.redirect(discard)  # some of them may be buried under those of another tool
            self._hooks = build_hooks(emit, self._leaks.examine, self._now, self._tasks, self._fault)
            self._leaks.connect(self._hooks.set_quiet)
        if may_have_event_loops():
            self.enable_task_labels()
        self._installed = installed = self._installed + 1

        def is_live() -> bool:
            # A patch that is buried under another tool's is called for longer, and would do everything twice beneath the
            # patches of the next installation.
            return installed == self._installed

        def on_backward(outputs: list[torch.Tensor], frame: FrameType) -> None:
            if installed == self._installed:
                self._on_backward(outputs, frame)

        run_inside_calls = [*self._hooks.patches, *backward_patches(on_backward, self._fault)]
        skip_when_compiling(*(patch.replacement for patch in run_inside_calls))
        self._patches.apply(
            [
                *run_inside_calls,
                *thread_patches(
                    self._emit, self._now, self._on_thread_start, self._on_thread_end, self._fault, is_live
                ),
                *loop_patches(self.enable_task_labels, self._fault),
                *self._handoffs.patches(),
                *self._phases.patches(),
            ]
        )
        self._dynamo.begin()
        connect(self._on_phase)

    def uninstall_if_idle(self) -> None:
        """Restore everything unless something still records."""
        if self._demand.is_idle:
            self._phases.end_all()
            disconnect(self._on_phase)
            self._dynamo.stop()
            for name in self._patches.restore():
                self._faults.add(
                    f"cannot restore {name}: another tool has replaced it since; it stays as that tool set it"
                )

    def abandon(self) -> None:
        """Restore everything in a forked child."""
        disconnect(self._on_phase)
        self._patches.restore()
        self._dynamo.stop()

    def redirect(self, emit: Emit) -> None:
        """Let the hooks pass their events to ``emit``, and serve the present demand."""
        self._counts_nodes, self._counts_operators = self._demand.counts_nodes, self._demand.counts_operators
        if self._hooks is not None:
            self._hooks.redirect(emit)

    def enable_task_labels(self) -> None:
        """Let the hooks look up the asyncio task of each event from now on."""
        if self._hooks is not None:
            self._hooks.enable_task_labels()
        self._operators.enable_task_labels()

    def _on_thread_start(self, started: threading.Thread) -> object:
        try:
            if self._demand.sinks_count_operators:
                self._operators.attach_thread()
                if not self._demand.counts_operators:
                    self._detach_again()
            return self._handoffs.begin_work(started)
        except Exception as error:
            self._fault(error)
        return None

    def _detach_again(self) -> None:
        """Detach this thread, since the last recording ended while it started.

        The lock is not held up to here: the caller of ``Thread.start`` waits for this thread, and may hold the lock.
        """
        self._operators.detach_thread_fully()
        lock = self._lock()
        if lock.acquire(timeout=1):
            try:
                if not self._demand.counts_operators:
                    self._operators.stop()
            finally:
                lock.release()

    def _on_thread_end(self, started: threading.Thread, begun: object) -> None:
        self._phases.end_thread()
        self._handoffs.end_work(started, begun)
        self._leaks.forget_thread(get_ident())
        self._operators.detach_thread()

    def _on_backward(self, outputs: list[torch.Tensor], frame: FrameType) -> None:
        ident = get_ident()
        if self._leaks.open:
            self._leaks.on_backward(ident, outputs, frame)
        self._handoffs.on_backward(ident)
        if self._counts_nodes:
            ranges = self._operators.on_backward(ident, outputs) if self._counts_operators else None
            if ranges is None:
                use_core_if_built()
                ranges = reachable_ranges(outputs)
            if ranges:
                marker = (BACKWARD_PASS, self._now(), ident, 0, 0, None)
                self._append((OP_ROWS, "backwards", marker, ranges))
        self._phases.on_backward()
