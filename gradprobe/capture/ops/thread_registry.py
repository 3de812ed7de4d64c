"""The registry of the threads whose operators are observed, with the patches that level ``ops`` needs.

The patches observe version counters that the program reads or bumps by hand, tensors it swaps, autocast blocks, and work
it submits to other threads.
"""

from __future__ import annotations

import weakref
from _thread import get_ident as thread
from collections import Counter
from collections.abc import Callable
from sys import _getframe
from types import TracebackType
from typing import Any

import torch

from gradprobe.capture.autograd.creation import (
    REGISTRY,
    CreationRecord,
    LiveInferenceTensors,
    dead_ref,
    find_holder_names,
    materialize_patches,
    swap_patches,
)
from gradprobe.capture.autograd.version_counters import version_of, version_patches
from gradprobe.capture.detectors.activation_hooks import report_activation_hooks
from gradprobe.capture.detectors.autocast_blocks import AutocastTracker
from gradprobe.capture.detectors.checkpointed_calls import report_checkpoint_without_inputs
from gradprobe.capture.detectors.detection_log import DetectionLog
from gradprobe.capture.detectors.exception_diagnosis import Operands
from gradprobe.capture.detectors.exception_notes import annotate_exception
from gradprobe.capture.detectors.gradient_hooks import GradientHookDetector
from gradprobe.capture.detectors.held_graphs import HeldGraphDetector
from gradprobe.capture.detectors.leaked_modes import LeakedModeDetector
from gradprobe.capture.detectors.missing_gradients import report_gradient_of_result
from gradprobe.capture.detectors.persistent_tensors import PersistentTensorDetector
from gradprobe.capture.detectors.thread_detectors import SharedDetectors
from gradprobe.capture.location.frames import is_called_by_torch
from gradprobe.capture.location.module_paths import ModulePaths
from gradprobe.capture.location.tasks import TaskLabels
from gradprobe.capture.ops.flow_recorder import FlowRecorder
from gradprobe.capture.ops.graph_memory_recorder import GraphMemoryRecorder
from gradprobe.capture.ops.native.loader import load_core
from gradprobe.capture.ops.native.observer import NativeObserver, ObservedThread, higher_order_patches
from gradprobe.capture.ops.refusal_hooks import GIVEN_BY_PYTORCH, refusal_patches
from gradprobe.capture.ops.transfer_phases import transfer_patches
from gradprobe.capture.patching.patches import Patches
from gradprobe.recording.events import ESCAPED_TENSORS, OP_ROWS, Event
from gradprobe.recording.op_rows import FORWARD, OpCounts
from gradprobe.refusals.table import WORDS


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
        self._escaped = LiveInferenceTensors()
        self._patches = Patches()
        self.detection_log = DetectionLog(self.codes, now)
        self.flow = FlowRecorder(self.codes, self.paths)
        self._autocasts = AutocastTracker(self.detection_log, thread, fault)
        self.memory = GraphMemoryRecorder(self.codes, now, self._list_held_graphs)
        self._held = HeldGraphDetector(self.detection_log, self._look_at_held_graphs, self.paths.list_roots)
        self._hooks = GradientHookDetector(self.detection_log)
        self._persistent = PersistentTensorDetector(self.detection_log, self.paths.list_roots)
        self._shared = SharedDetectors(
            self.detection_log,
            self._autocasts,
            leaks,
            self._escaped,
            self._held,
            self._report_hooks,
            self._hooks,
            self.flow.on_step,
            self._persistent.on_use,
            fault,
        )
        self._installed = 0
        self._labels_tasks = self._shows_parts = False

    def attach_thread(self) -> None:
        """Observe the calling thread's operators from now on. Calls nest."""
        ident = thread()
        if self._observer is None:
            self._observer = NativeObserver(
                load_core(), self._emit, self._now, self._fault, self.codes, self.paths, self._tasks, self._shared
            )
            self.flow.begin(load_core(), self._observer.take_flow)
            if self._labels_tasks:
                self._observer.enable_tasks()
            self._observer.show_parts(self._shows_parts)
        if ident not in self._threads:
            self._threads[ident] = self._observer.attach(self._shared, self._emit_escaped)
        if not self._patches.are_applied:
            self._installed += 1
            if_installed = self._while_installed
            failed, bumped = if_installed(self._read_failed), if_installed(self._after_increment)
            others = [
                *swap_patches(self._forget),
                *materialize_patches(if_installed(self._on_materialized)),
                *self._autocasts.patches(),
                *higher_order_patches(load_core()),
                *transfer_patches(load_core(), self._on_transfer_failed),
                *refusal_patches(
                    load_core(),
                    self._on_call_refused,
                    if_installed(self._on_export),
                    if_installed(self._hooks.on_registered),
                    if_installed(self._on_no_gradient),
                    if_installed(self._on_checkpoint),
                ),
            ]
            self._patches.apply([*version_patches(load_core(), failed, bumped), *others])
            load_core().show_refusals(self._on_operator_refused, WORDS)
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

    def _while_installed(self, step: Callable[..., None]) -> Callable[..., None]:
        """Wrap ``step`` so that it does nothing if this installation's patches are no longer applied.

        Another tool that patched the same attribute may still call gradprobe's replacement after it was restored.
        """
        installed = self._installed

        def call(*arguments: Any) -> None:
            try:
                is_live = self._patches.are_applied and installed == self._installed
            except Exception as error:
                self._fault(error)
            else:
                if is_live:
                    step(*arguments)

        return call

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
        self._safely(lambda: load_core().show_refusals(None, ()))
        self._safely(self._patches.restore)
        self._safely(REGISTRY.forget_parameters)
        self.detection_log.last_escaped = None
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
        self._safely(self._patches.restore)

    def flush(self) -> None:
        """Emit the operators of all threads so far."""
        if self._observer is not None:
            self._safely(self._observer.flush)

    def resolve_pending(self) -> None:
        """Emit the calling thread's operators so far, because its modes are about to change."""
        observed = self._threads.get(thread())
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
            observed = self._threads.get(thread()) or next(iter(self._threads.values()))
            self._safely(lambda: annotate_exception(error, observed.detectors.refusals, self.detection_log))

    def _on_operator_refused(self, text: str, tensors: list[Any], op: str) -> None:
        observed = self._threads.get(thread())
        if observed is not None:
            self._safely(lambda: self._look_at_persistent_tensors(at_times=True))
            self._safely(lambda: observed.detectors.refusals.on_operator(text, tensors))

    def _on_call_refused(self, error: Exception, trace: TracebackType | None, operands: Operands) -> None:
        observed = self._threads.get(thread())
        if observed is not None:
            self._safely(lambda: observed.detectors.refusals.on_call(error, trace, operands))

    def _on_transfer_failed(self, error: Exception, trace: TracebackType | None) -> None:
        observed = self._threads.get(thread())
        if observed is not None:
            self._safely(lambda: observed.detectors.refusals.on_transfer(error, trace))

    def _on_export(self, name: str, is_shared: bool, arguments: tuple[Any, ...]) -> None:
        """Note the line that gave the values of a tensor to NumPy or other code beyond PyTorch."""
        observer, frame = self._observer, _getframe(1)
        if name in GIVEN_BY_PYTORCH and is_called_by_torch(frame):
            return
        is_plain = bool(arguments) and type(arguments[0]) in (torch.Tensor, torch.nn.Parameter)
        if observer is not None and is_plain and thread() in self._threads:
            self._safely(lambda: observer.note_export(arguments[0], frame, name, is_shared=is_shared))

    def _on_no_gradient(self, tensor: torch.Tensor) -> None:
        """Report the line that reads ``grad`` of a result, which no backward fills."""
        frame = _getframe(1)
        if thread() in self._threads and not tensor.retains_grad and not is_called_by_torch(frame):
            self._safely(lambda: report_gradient_of_result(tensor, frame, self.detection_log))

    def _on_checkpoint(self, arguments: tuple[Any, ...]) -> None:
        if thread() in self._threads:
            self._safely(lambda: report_checkpoint_without_inputs(arguments, self.detection_log))

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
            self._safely(lambda: self._look_at_persistent_tensors(at_times=True))
        backward = observed.begin_backward(outputs)
        observed.detectors.on_backward(outputs, backward)
        if not backward.is_grad:
            self._safely(self.memory.on_backward)
        return backward.ranges

    def on_phase(self) -> None:
        """Look at the memory of graphs as a phase of the program begins or ends in the calling thread."""
        if thread() in self._threads:
            self._safely(self.memory.on_phase)

    def _on_materialized(self, tensor: Any) -> None:
        """Take in that a lazy parameter or buffer has got its memory, which makes it an inference tensor in that mode."""
        if torch.is_inference_mode_enabled() and thread() in self._threads:
            frame = self.codes.find_user_frame(_getframe(1))
            if frame is not None:
                now = self._now()
                place = (frame.f_code, frame.f_lasti, "materialize", "")
                record: CreationRecord = (weakref.ref(tensor), now, *place, now, thread())
                REGISTRY.add_materialized(tensor, record)
                self._persistent.add(record)

    def _forget(self, tensor: Any) -> None:
        REGISTRY.forget(tensor)
        self._escaped.forget(tensor)
        self._persistent.forget_tensor(tensor)

    def report_kept(self) -> None:
        """Report what is kept with its graph as a recording ends, while the observer still knows its threads."""
        self.resolve_pending()
        for observed in list(self._threads.values()):
            self._safely(observed.settle_ended)
        self._safely(self._report_hooks)
        self._safely(self._report_held_graphs)
        self._safely(self._look_at_persistent_tensors)

    def _look_at_persistent_tensors(self, *, at_times: bool = False) -> None:
        with torch._C.DisableTorchFunction():
            (self._persistent.look_at_times if at_times else self._persistent.look)(_getframe(1))

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

    def _report_hooks(self) -> None:
        with torch._C.DisableTorchFunction():
            if self._observer is not None:
                report_activation_hooks(self.paths.list_roots(), self._observer.was_reached, self.detection_log)

    def _safely(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:
            self._fault(error)

    def _emit_escaped(self, observed: ObservedThread) -> None:
        """Emit the inference tensors still referenced as a thread leaves inference mode, by creation site."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for record in observed.take_inference_tensors():
            tensor = record[0]()
            if tensor is not None:
                group = groups.setdefault(_creation_key(record), [record[1], 0, 0])
                group[1] += 1
                with torch._C.DisableTorchFunction():
                    group[2] += _nbytes(tensor)
                self._escaped.add(record)
                self._persistent.add(record)
                self.detection_log.last_escaped = (dead_ref, *record[1:])
        for (code, offset, op, module, _), group in groups.items():
            marker = (ESCAPED_TENSORS, self._now(), thread(), code, offset, (op, None, module, FORWARD))
            self._emit((OP_ROWS, "outliving", marker, [(*group, 0)]))
        if groups or self._persistent.has_new_lines:
            with torch._C.DisableTorchFunction():
                self._persistent.look_at_times(_getframe(1))

    def emit_live_inference_tensors(self) -> None:
        """Emit the escaped inference tensors that are still referenced, and the modules that hold them."""
        alive = [(record, tensor) for record in self._escaped.take() if (tensor := record[0]()) is not None]
        names = find_holder_names(self.paths.list_roots(), {id(tensor) for _, tensor in alive})
        groups = Counter((*_creation_key(record), names.get(id(tensor))) for record, tensor in alive)
        for (code, offset, op, module, owner, name), count in groups.items():
            marker = (ESCAPED_TENSORS, self._now(), owner, code, offset, (op, name, module, FORWARD))
            self._emit((OP_ROWS, "outliving", marker, [(0, 0, 0, count)]))

    def _read_failed(self, error: Exception, trace: TracebackType | None, tensor: torch.Tensor) -> None:
        self._on_call_refused(error, trace, Operands([tensor]))
        self._emit_manual_op("Tensor._version", OpCounts(calls=1, failed_version_reads=1))

    def _after_increment(self, tensors: Any) -> None:
        if REGISTRY.library is not None and REGISTRY.library.is_running():
            return  # the operator's own account has the tensors that it writes
        with torch._C.DisableTorchFunction():
            bumped = [tensors] if isinstance(tensors, torch.Tensor) else tensors
            number = sum(version_of(tensor) is not None for tensor in bumped)
        self._emit_manual_op("increment_version", OpCounts(calls=1, version_bumps=number))

    def _emit_manual_op(self, what: str, counts: OpCounts) -> None:
        """Add a read or bump of version counters that the program made by hand, at its line."""
        try:
            frame = self.codes.find_user_frame(_getframe(2))
            at = (0, 0) if frame is None else (id(frame.f_code), frame.f_lasti)
            if self._observer is not None:
                self._observer.add_by_hand(*at, what, counts)
        except Exception as error:
            self._fault(error)


def _creation_key(record: CreationRecord) -> tuple[int, int, str, str, int]:
    _, _, code, offset, op, module, _, owner = record
    return 0 if code is None else id(code), offset, op, module, owner


def _nbytes(tensor: Any) -> int:
    number = tensor.numel()
    # Reading the number of a symbolic size would make it a constant of the program that is being traced.
    return int(number * tensor.element_size()) if isinstance(number, int) else 0
