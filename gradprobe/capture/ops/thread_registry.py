"""The registry of per-thread dispatchers, with the patches that level ``ops`` needs.

The patches observe version counters that the program reads or bumps by hand, tensors it swaps, autocast blocks, and work
it submits to other threads.
"""

from __future__ import annotations

from _thread import get_ident as thread
from collections import Counter
from collections.abc import Callable
from sys import _getframe
from types import CodeType, FrameType, MethodType
from typing import Any

import torch

from gradprobe.capture.autograd.creation import (
    REGISTRY,
    CreationRecord,
    LiveInferenceTensors,
    dead_ref,
    find_holder_names,
    swap_patches,
)
from gradprobe.capture.autograd.saved_storages import SAVED_STORAGES
from gradprobe.capture.autograd.version_counters import version_of, version_patches
from gradprobe.capture.detectors.activation_hooks import report_activation_hooks
from gradprobe.capture.detectors.autocast_blocks import AutocastTracker
from gradprobe.capture.detectors.detection_log import DetectionLog
from gradprobe.capture.detectors.exception_diagnosis import report_failed_version_read
from gradprobe.capture.detectors.exception_notes import annotate_exception
from gradprobe.capture.detectors.thread_detectors import ThreadDetectors
from gradprobe.capture.detectors.thread_handoff import ThreadHandoffDetector
from gradprobe.capture.location.frames import USER, FrameClassifier
from gradprobe.capture.location.module_paths import ModulePaths
from gradprobe.capture.location.tasks import TaskLabels
from gradprobe.capture.ops.dispatch_mode import ObserverMode, insert_mode, remove_mode
from gradprobe.capture.ops.dispatcher import ThreadDispatcher, make_dispatcher
from gradprobe.capture.ops.native.loader import core_status, load_core
from gradprobe.capture.patching.patches import Patches
from gradprobe.recording.events import (
    ACTION_MASK,
    ENTER,
    ESCAPED_TENSORS,
    EXIT,
    INFERENCE_MODE,
    OP_ROWS,
    OPERATOR,
    Event,
)
from gradprobe.recording.op_rows import FORWARD, OpCounts

_LEFT_INFERENCE = INFERENCE_MODE | EXIT
_is_inference = torch.is_inference_mode_enabled


class ThreadRegistry:
    """The dispatchers of all threads, and the dispatch modes on the threads' mode stacks."""

    def __init__(
        self,
        emit: Callable[[Event], object],
        now: Callable[[], int],
        fault: Callable[[Exception], None],
        tasks: TaskLabels,
    ) -> None:
        self._emit, self._now, self._fault, self._tasks = emit, now, fault, tasks
        self.codes = FrameClassifier()
        self.paths = ModulePaths()
        self._dispatchers: dict[int, ThreadDispatcher] = {}
        self._modes: dict[int, tuple[ObserverMode, int]] = {}
        self._escaped = LiveInferenceTensors()
        self._patches = Patches()
        self.detection_log = DetectionLog(self.codes, now)
        self._autocasts = AutocastTracker(self.detection_log, thread, fault)
        self.handoffs = ThreadHandoffDetector(self.detection_log, now, self.resolve_pending, fault)
        self._hook_reports = self._installed = 0
        self._native: Any = None

    def attach_thread(self) -> None:
        """Observe the calling thread's operators from now on. Calls nest."""
        ident = thread()
        mode, depth = self._modes.get(ident, (None, 0))
        if not self._modes:
            self._native = load_core() if core_status()[0] else None
        if mode is None:
            mode = ObserverMode()  # type: ignore[no-untyped-call]
            # An attribute of the object: each thread has its own closure, whose variables are the thread's state.
            dispatcher = self._get_dispatcher()
            mode.__torch_dispatch__ = MethodType(dispatcher.dispatch, mode)  # type: ignore[method-assign]
            insert_mode(mode)
            dispatcher.core.start(mode)
        if not self._patches.are_applied:
            self._installed += 1
            if_installed = self._while_installed
            failed, bumped = if_installed(self._read_failed), if_installed(self._after_increment)
            versions = version_patches(failed, self._before_increment, bumped)
            others = [
                *swap_patches(self.resolve_pending, self._forget),
                *self._autocasts.patches(),
                *self.handoffs.patches(),
            ]
            self._patches.apply([*versions, *others])
        self._modes[ident] = mode, depth + 1

    def _while_installed(self, step: Callable[[Any], None]) -> Callable[[Any], None]:
        """Wrap ``step`` so that it does nothing if this installation's patches are no longer applied.

        Another tool that patched the same attribute may still call gradprobe's replacement after it was restored.
        """
        installed = self._installed

        def call(tensors: Any) -> None:
            try:
                is_live = self._patches.are_applied and installed == self._installed
            except Exception as error:
                self._fault(error)
            else:
                if is_live:
                    step(tensors)

        return call

    def detach_thread(self) -> None:
        """Undo one ``attach_thread`` of the calling thread; the last one removes the mode."""
        ident = thread()
        mode, depth = self._modes.get(ident, (None, 0))
        if mode is None:
            return
        if depth > 1:
            self._modes[ident] = mode, depth - 1
            return
        del self._modes[ident]
        self.resolve_pending()
        remove_mode(mode)
        vars(mode).pop("__torch_dispatch__", None)  # it refers to the mode
        dispatcher = self._dispatchers.pop(ident, None)
        if dispatcher is not None:
            self._safely(dispatcher.core.stop)
            self._safely(dispatcher.detectors.on_thread_end)

    def detach_thread_fully(self) -> None:
        """Undo all ``attach_thread`` calls of the calling thread at once."""
        while thread() in self._modes:
            self.detach_thread()

    def stop(self) -> None:
        """Make the modes left on other threads' stacks pass all operators through."""
        # Cleared first: another thread may attach meanwhile, and a step that fails must not be retried at the next stop.
        modes, self._modes = self._modes, {}
        dispatchers, self._dispatchers = self._dispatchers, {}
        for mode, _ in list(modes.values()):
            vars(mode).pop("__torch_dispatch__", None)
        for dispatcher in list(dispatchers.values()):
            self._safely(dispatcher.core.stop)
        if self._native is not None:
            self._safely(self._native.uninstall)
        self._safely(self._patches.restore)
        self._safely(SAVED_STORAGES.clear)
        self.detection_log.last_escaped = None
        self._safely(REGISTRY.forget_parameters)

    def flush(self) -> None:
        """Emit the operators buffered in the native cores of all threads."""
        for dispatcher in list(self._dispatchers.values()):
            self._safely(dispatcher.core.flush_each)

    def resolve_pending(self) -> None:
        """Emit the calling thread's pending operators, because its modes are about to change."""
        dispatcher = self._dispatchers.get(thread())
        if dispatcher is not None:
            try:
                dispatcher.resolve_pending()
            except Exception as error:
                self._fault(error)

    def on_event(self, event: Event) -> None:
        """Resolve pending operators and run the detectors after a manager was entered or exited."""
        dispatcher = self._dispatchers.get(thread())
        if dispatcher is None:
            return
        try:
            dispatcher.resolve_pending()
        except Exception as error:
            self._fault(error)
        try:
            op, is_outside = event[0], not _is_inference()
            if op == _LEFT_INFERENCE and is_outside:
                self._emit_escaped(dispatcher)
            if op & ACTION_MASK == ENTER and event[5] and not event[7] and self._is_user_code(event[3]):
                self._report_hooks()
            dispatcher.detectors.on_event(event, is_outside and self._escaped.has_live())
        except Exception as error:
            self._fault(error)

    def annotate_exception(self, error: BaseException) -> None:
        """Add a note to an exception of the program that leaves a recorded block."""
        if self._modes:
            self.resolve_pending()
            self._safely(lambda: annotate_exception(error, self.detection_log))

    def on_backward(self, outputs: list[torch.Tensor], runs: list[tuple[int, int]], frame: FrameType) -> None:
        """Run the detectors as a backward begins in ``frame``, which will reach the nodes in ``runs``."""
        dispatcher = self._dispatchers.get(thread())
        if dispatcher is not None:
            self.resolve_pending()
            dispatcher.detectors.on_backward(outputs, runs, frame)

    def _is_user_code(self, code: CodeType | None) -> bool:
        return code is not None and self.codes.kind(code) == USER

    def _forget(self, tensor: Any) -> None:
        REGISTRY.forget(tensor)
        for tensors in (self._escaped, *(dispatcher.live_inference for dispatcher in self._dispatchers.values())):
            tensors.forget(tensor)

    def _report_hooks(self) -> None:
        """Report tensors kept by forward hooks, on the 1st, 2nd, 4th, 8th ... time that grad is disabled."""
        self._hook_reports += 1
        if self._hook_reports & (self._hook_reports - 1) == 0:
            with torch._C.DisableTorchFunction():
                report_activation_hooks(self.paths.roots(), self.detection_log)

    def _safely(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:
            self._fault(error)

    def _emit_escaped(self, dispatcher: ThreadDispatcher) -> None:
        """Emit the inference tensors still referenced as a thread leaves inference mode, by creation site."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for record in dispatcher.live_inference.take():
            tensor = record[0]()
            if tensor is not None:
                group = groups.setdefault(_creation_key(record), [record[1], 0, 0])
                group[1] += 1
                with torch._C.DisableTorchFunction():
                    group[2] += _nbytes(tensor)
                self._escaped.add(record)
                self.detection_log.last_escaped = (dead_ref, *record[1:])
        for (code, offset, op, module, _), group in groups.items():
            marker = (ESCAPED_TENSORS, self._now(), thread(), code, offset, (op, None, module, FORWARD))
            self._emit((OP_ROWS, "outliving", marker, [(*group, 0)]))

    def emit_live_inference_tensors(self) -> None:
        """Emit the escaped inference tensors that are still referenced, and the modules that hold them."""
        self._hook_reports = 0
        self._safely(self._report_hooks)
        alive = [(record, tensor) for record in self._escaped.take() if (tensor := record[0]()) is not None]
        names = find_holder_names(self.paths.roots(), {id(tensor) for _, tensor in alive})
        groups = Counter((*_creation_key(record), names.get(id(tensor))) for record, tensor in alive)
        for (code, offset, op, module, owner, name), count in groups.items():
            marker = (ESCAPED_TENSORS, self._now(), owner, code, offset, (op, name, module, FORWARD))
            self._emit((OP_ROWS, "outliving", marker, [(0, 0, 0, count)]))

    def _read_failed(self, tensor: torch.Tensor) -> None:
        try:
            report_failed_version_read(tensor, self.detection_log)
            self._emit_manual_op("Tensor._version", OpCounts(calls=1, failed_version_reads=1))
        except Exception as error:
            self._fault(error)

    def _before_increment(self) -> None:
        """Count the bumps that earlier operators made, before the program increments a counter by hand."""
        dispatcher = self._dispatchers.get(thread())
        if dispatcher is not None:
            try:
                with torch._C.DisableTorchFunction():
                    dispatcher.resolve_operators(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]
            except Exception as error:
                self._fault(error)

    def _after_increment(self, tensors: Any) -> None:
        with torch._C.DisableTorchFunction():
            bumped = [tensors] if isinstance(tensors, torch.Tensor) else tensors
            number = sum(version_of(tensor) is not None for tensor in bumped)
        self._emit_manual_op("increment_version", OpCounts(calls=1, version_bumps=number))

    def _emit_manual_op(self, what: str, counts: OpCounts) -> None:
        """Emit a read or bump of version counters that the program made by hand, at its line."""
        try:
            frame = self.codes.find_user_frame(_getframe(2))
            at = (0, 0) if frame is None else (id(frame.f_code), frame.f_lasti)
            self._emit((OPERATOR, thread(), (*at, what, "", FORWARD, None), None, counts))
        except Exception as error:
            self._fault(error)

    def _get_dispatcher(self) -> ThreadDispatcher:
        dispatcher = self._dispatchers.get(thread())
        if dispatcher is None:
            detectors = ThreadDetectors(self.detection_log, self._autocasts, self._fault)
            dispatcher = make_dispatcher(
                self._emit,
                self._now,
                self._fault,
                self.codes,
                self.paths,
                self._tasks,
                self._dispatch_foreign,
                detectors,
                self._native,
            )
            self._dispatchers[thread()] = dispatcher
        return dispatcher

    def _dispatch_foreign(self, mode: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Dispatch an operator of a thread that took over this mode, such as one of autograd's engine."""
        return self._get_dispatcher().dispatch(mode, func, types, args, kwargs)


def _creation_key(record: CreationRecord) -> tuple[int, int, str, str, int]:
    _, _, code, offset, op, module, _, owner = record
    return 0 if code is None else id(code), offset, op, module, owner


def _nbytes(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())
