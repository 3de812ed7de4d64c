"""The registry of the threads whose operators are observed."""

from __future__ import annotations

from _thread import get_ident as thread
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from gradprobe.capture.autograd.creation import REGISTRY, CreationRecord
from gradprobe.capture.detectors.activation_hooks import report_activation_hooks
from gradprobe.capture.detectors.autocast_blocks import AutocastTracker
from gradprobe.capture.detectors.detection_log import DetectionLog, find_no_escaped
from gradprobe.capture.detectors.exception_notes import annotate_exception
from gradprobe.capture.detectors.gradient_hooks import GradientHookDetector
from gradprobe.capture.detectors.held_graphs import HeldGraphDetector
from gradprobe.capture.detectors.leaked_modes import LeakedModeDetector
from gradprobe.capture.detectors.persistent_tensors import PersistentTensorDetector
from gradprobe.capture.detectors.thread_detectors import SharedDetectors
from gradprobe.capture.location.module_paths import ModulePaths
from gradprobe.capture.location.tasks import TaskLabels
from gradprobe.capture.ops.flow_recorder import FlowRecorder
from gradprobe.capture.ops.graph_memory_recorder import GraphMemoryRecorder
from gradprobe.capture.ops.hook_reports import HookReports
from gradprobe.capture.ops.inference_tensor_events import InferenceTensorEvents
from gradprobe.capture.ops.native.loader import load_core
from gradprobe.capture.ops.native.observer import NativeObserver, ObservedThread
from gradprobe.recording.events import Event


class ThreadRegistry:
    """The threads whose operators one session observes."""

    def __init__(
        self,
        emit: Callable[[Event], object],
        now: Callable[[], int],
        fault: Callable[[Exception], None],
        tasks: TaskLabels,
        mode_log: DetectionLog,
        leaks: LeakedModeDetector,
    ) -> None:
        self._emit, self._now, self._fault, self._tasks = emit, now, fault, tasks
        self.codes = mode_log.codes
        self.paths = ModulePaths()
        self._observer: NativeObserver | None = None
        self._threads: dict[int, ObservedThread] = {}
        self._depths: Counter[int] = Counter()
        """The number of times that each thread is attached."""
        self.detection_log = DetectionLog(self.codes, now)
        self.flow = FlowRecorder(self.codes, self.paths)
        autocasts = AutocastTracker(self.detection_log, thread, fault)
        self.memory = GraphMemoryRecorder(self.codes, now, self._list_held_graphs)
        self._held = HeldGraphDetector(self.detection_log, self._look_at_held_graphs, self.paths.list_roots)
        gradient_hooks = GradientHookDetector(self.detection_log)
        self._persistent = PersistentTensorDetector(self.detection_log, self.paths.list_roots, self._list_escaped)
        self._tensors = InferenceTensorEvents(emit, now, self.paths, self.detection_log, self._persistent)
        self._hooks = HookReports(
            self, fault, self.detection_log, self._tensors, self._persistent, autocasts, gradient_hooks
        )
        self._shared = SharedDetectors(
            self.detection_log,
            autocasts,
            leaks,
            self._held,
            self._report_activation_hooks,
            gradient_hooks,
            self.flow.on_step,
            self._persistent.on_use,
            fault,
        )
        self._labels_tasks = self._shows_parts = False

    def find_current(self) -> ObservedThread | None:
        """Return the calling thread, None if it is not observed."""
        return self._threads.get(thread())

    def find_observer(self) -> NativeObserver | None:
        """Return what observes the threads, None if nothing does."""
        return self._observer

    def attach_thread(self) -> None:
        """Observe the calling thread's operators from now on. Calls nest."""
        ident = thread()
        if self._observer is None:
            self._observer = NativeObserver(
                load_core(), self._emit, self._now, self._fault, self.codes, self.paths, self._tasks, self._shared
            )
            self.flow.begin(load_core(), self._observer.take_flow)
            self.detection_log.find_last_escaped = self._observer.last_escaped
            if self._labels_tasks:
                self._observer.enable_tasks()
            self._observer.show_parts(self._shows_parts)
        if ident not in self._threads:
            self._threads[ident] = self._observer.attach(self._shared, self._tensors.on_escaped)
        self._hooks.install()
        self._depths[ident] += 1

    def enable_task_labels(self) -> None:
        """Look up the asyncio task of each operator from now on."""
        self._labels_tasks = True
        if self._observer is not None:
            self._observer.enable_tasks()

    def show_parts(self, is_shown: bool) -> None:
        """Observe the parts of composite operators too, or not, in all threads."""
        self._shows_parts = is_shown
        if self._observer is not None:
            self._observer.show_parts(is_shown)

    def detach_thread(self, *, is_reported: bool = False) -> None:
        """Undo one ``attach_thread`` of the calling thread, the last of which reports what is kept unless that is done."""
        ident = thread()
        if ident not in self._threads:
            return
        self._depths[ident] -= 1
        if self._depths[ident] > 0:
            return
        del self._depths[ident]
        observed = self._threads.pop(ident)
        self._safely(observed.detach)
        self._safely(observed.detectors.on_thread_end)
        if not self._threads and not is_reported:
            self._safely(self._report_held_graphs)

    def detach_thread_fully(self) -> None:
        """Undo all ``attach_thread`` calls of the calling thread at once."""
        while thread() in self._threads:
            self.detach_thread()

    def stop(self) -> None:
        """Observe no thread any more."""
        # Cleared first: another thread may attach meanwhile, and a step that fails must not be retried at the next stop.
        threads, self._threads = self._threads, {}
        self._depths.clear()
        observer, self._observer = self._observer, None
        for observed in list(threads.values()):
            self._safely(observed.detectors.finish)
            self._safely(observed.detach)
        if observer is not None:
            self._safely(observer.stop)
            self._safely(self.flow.end)
        self._safely(self.memory.forget)
        self._hooks.remove()
        self._safely(REGISTRY.forget_parameters)
        self.detection_log.find_last_escaped = find_no_escaped
        self._persistent.forget()

    def abandon(self) -> None:
        """Observe nothing more in a forked child, and emit nothing."""
        self._threads.clear()
        self._depths.clear()
        observer, self._observer = self._observer, None
        self.flow.abandon()
        self.memory.forget()
        if observer is not None:
            self._safely(observer.abandon)
        self._hooks.restore_patches()

    def flush(self) -> None:
        """Emit the operators of all threads so far."""
        if self._observer is not None:
            self._safely(self._observer.flush)

    def resolve_pending(self) -> None:
        """Emit the calling thread's operators so far, because its modes are about to change."""
        observed = self.find_current()
        if observed is not None:
            try:
                observed.settle()
            except Exception as error:
                self._fault(error)

    def make_gate(self, append: Callable[[Event], object]) -> Callable[[Event], object] | None:
        """Return a callable that passes manager events on to ``append``, None if no thread is observed.

        It emits the operators of the event's thread first, shows the event to the detectors, and adds the number of nodes.
        """
        return None if self._observer is None else self._observer.make_gate(append)

    def annotate_exception(self, error: BaseException) -> None:
        """Add a note to an exception of the program that leaves a recorded block."""
        if self._threads:
            self.resolve_pending()
            observed = self.find_current() or next(iter(self._threads.values()))
            self._safely(lambda: annotate_exception(error, observed.detectors.refusals, self.detection_log))

    def on_backward(self, ident: int, outputs: list[torch.Tensor]) -> list[tuple[int, int]] | None:
        """Run the detectors as a backward begins in the calling thread.

        Returns:
            The sequence numbers of the nodes that it goes through, as ranges of a first and a last number, or None if the
            calling thread is not observed.
        """
        observed = self._threads.get(ident)
        if observed is None:
            return None
        if self._persistent.has_tensors:
            self._safely(lambda: self._hooks.look_at_persistent_tensors(at_times=True))
        backward = observed.begin_backward(outputs)
        observed.detectors.on_backward(outputs, backward)
        if not backward.is_grad:
            self._safely(self.memory.on_backward)
        return backward.ranges

    def on_phase(self) -> None:
        """Look at the memory of graphs as a phase of the program begins or ends in the calling thread."""
        if thread() in self._threads:
            self._safely(self.memory.on_phase)

    def emit_live_inference_tensors(self) -> None:
        """Emit the escaped inference tensors that are still referenced, and the modules that hold them."""
        if self._observer is not None:
            self._tensors.emit_live(self._observer)

    def report_kept(self) -> None:
        """Report what is kept with its graph as a recording ends, while the observer still knows its threads."""
        self.resolve_pending()
        for observed in list(self._threads.values()):
            self._safely(observed.settle_ended)
        self._safely(self._report_activation_hooks)
        self._safely(self._report_held_graphs)
        self._safely(self._hooks.look_at_persistent_tensors)

    def _list_escaped(self) -> list[CreationRecord]:
        return [] if self._observer is None else self._observer.latest_escaped()

    def _list_held_graphs(self) -> list[tuple[Any, ...]]:
        return [] if self._observer is None else self._observer.list_held_graphs()

    def _look_at_held_graphs(self) -> list[tuple[Any, ...]]:
        held = self._list_held_graphs()
        self._safely(lambda: self.memory.on_look(held))
        return held

    def _report_held_graphs(self) -> None:
        with torch._C.DisableTorchFunction():
            self._held.look(is_last=True)
            self._held.report()

    def _report_activation_hooks(self) -> None:
        with torch._C.DisableTorchFunction():
            if self._observer is not None:
                report_activation_hooks(self.paths.list_roots(), self._observer.was_reached, self.detection_log)

    def _safely(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:
            self._fault(error)
