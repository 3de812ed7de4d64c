"""What watches operators in all threads: their modes, their accounts, and what the program does to versions by hand."""

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
from gradprobe.capture.ops.native.loader import core, core_status
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
    """The watchers of all threads, and the modes on their stacks."""

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
        self._watchers: dict[int, ThreadDispatcher] = {}
        self._modes: dict[int, tuple[ObserverMode, int]] = {}
        self._outlived = LiveInferenceTensors()
        self._patches = Patches()
        self.sightings = DetectionLog(self.codes, now)
        self._autocasts = AutocastTracker(self.sightings, thread, fault)
        self.handoffs = ThreadHandoffDetector(self.sightings, now, self.resolve_pending, fault)
        self._hook_looks = self._installed = 0
        self._native: Any = None

    def attach_thread(self) -> None:
        """Watches this thread from here on; calls nest."""
        ident = thread()
        mode, depth = self._modes.get(ident, (None, 0))
        if not self._modes:
            self._native = core() if core_status()[0] else None
        if mode is None:
            mode = ObserverMode()  # type: ignore[no-untyped-call]
            # An attribute of the object: each thread has its own function, whose variables are the thread's state.
            known = self._watcher()
            mode.__torch_dispatch__ = MethodType(known.dispatch, mode)  # type: ignore[method-assign]
            insert_mode(mode)
            known.core.begin(mode)
        if not self._patches.are_applied:
            self._installed += 1
            once = self._while_installed
            versions = version_patches(once(self._read_failed), self._puts_up, once(self._put_up))
            others = [
                *swap_patches(self.resolve_pending, self._forget),
                *self._autocasts.patches(),
                *self.handoffs.patches(),
            ]
            self._patches.apply([*versions, *others])
        self._modes[ident] = mode, depth + 1

    def _while_installed(self, step: Callable[[Any], None]) -> Callable[[Any], None]:
        """``step`` but where it is reached from a patch that is buried under another tool's, beneath or after ours."""
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
        """Undoes one ``watch_thread`` of this thread; the last one takes the mode from the stack."""
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
        known = self._watchers.pop(ident, None)
        if known is not None:
            self._safely(known.core.end)
            self._safely(known.detectors.finish)

    def detach_thread_fully(self) -> None:
        """Undoes all ``watch_thread`` of this thread at once."""
        while thread() in self._modes:
            self.detach_thread()

    def stop(self) -> None:
        """Lets the modes that other threads still have pass everything through, until those threads end."""
        # Taken first: another thread may begin meanwhile, and what fails here must not be tried again at the next stop.
        modes, self._modes = self._modes, {}
        watchers, self._watchers = self._watchers, {}
        for mode, _ in list(modes.values()):
            vars(mode).pop("__torch_dispatch__", None)
        for known in list(watchers.values()):
            self._safely(known.core.end)
        if self._native is not None:
            self._safely(self._native.uninstall)
        self._safely(self._patches.restore)
        self._safely(SAVED_STORAGES.clear)
        self.sightings.outlived = None
        self._safely(REGISTRY.forget_parameters)

    def flush(self) -> None:
        """Emits what has gathered in the native cores of all threads."""
        for known in list(self._watchers.values()):
            self._safely(known.core.flush_each)

    def resolve_pending(self) -> None:
        """Emits what is pending in this thread: its modes are about to change."""
        known = self._watchers.get(thread())
        if known is not None:
            try:
                known.resolve_pending()
            except Exception as error:
                self._fault(error)

    def event(self, event: Event) -> None:
        """A manager was entered or left in this thread: settles what is pending, and looks out for what goes wrong."""
        known = self._watchers.get(thread())
        if known is None:
            return
        try:
            known.resolve_pending()
        except Exception as error:
            self._fault(error)
        try:
            op, is_outside = event[0], not _is_inference()
            if op == _LEFT_INFERENCE and is_outside:
                self._note_outliving(known)
            if op & ACTION_MASK == ENTER and event[5] and not event[7] and self._is_users(event[3]):
                self._look_at_hooks()
            known.detectors.event(event, is_outside and self._outlived.has_live())
        except Exception as error:
            self._fault(error)

    def annotate_exception(self, error: BaseException) -> None:
        """An exception of the program passes through a recording."""
        if self._modes:
            self.resolve_pending()
            self._safely(lambda: annotate_exception(error, self.sightings))

    def backward(self, outputs: list[torch.Tensor], runs: list[tuple[int, int]], frame: FrameType) -> None:
        """A backward begins in ``frame`` and goes through these runs of nodes."""
        known = self._watchers.get(thread())
        if known is not None:
            self.resolve_pending()
            known.detectors.backward(outputs, runs, frame)

    def _is_users(self, code: CodeType | None) -> bool:
        return code is not None and self.codes.kind(code) == USER

    def _forget(self, tensor: Any) -> None:
        REGISTRY.forget(tensor)
        for outliving in (self._outlived, *(known.outliving for known in self._watchers.values())):
            outliving.forget(tensor)

    def _look_at_hooks(self) -> None:
        """What hooks keep, at the first moments when gradients are switched off and then ever more rarely."""
        self._hook_looks += 1
        if self._hook_looks & (self._hook_looks - 1) == 0:
            with torch._C.DisableTorchFunction():
                report_activation_hooks(self.paths.roots(), self.sightings)

    def _safely(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:
            self._fault(error)

    def _note_outliving(self, known: ThreadDispatcher) -> None:
        """Emits which inference tensors of this thread are alive as it leaves inference mode, by where they were born."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for entry in known.outliving.take():
            tensor = entry[0]()
            if tensor is not None:
                group = groups.setdefault(_born_at(entry), [entry[1], 0, 0])
                group[1] += 1
                with torch._C.DisableTorchFunction():
                    group[2] += _size(tensor)
                self._outlived.add(entry)
                self.sightings.outlived = (dead_ref, *entry[1:])
        for (code, offset, op, module, _), group in groups.items():
            marker = (ESCAPED_TENSORS, self._now(), thread(), code, offset, (op, None, module, FORWARD))
            self._emit((OP_ROWS, "outliving", marker, [(*group, 0)]))

    def emit_live_inference_tensors(self) -> None:
        """Emits which inference tensors outlived inference mode and are alive now, and which modules hold them."""
        self._hook_looks = 0
        self._safely(self._look_at_hooks)
        alive = [(entry, tensor) for entry in self._outlived.take() if (tensor := entry[0]()) is not None]
        names = find_holder_names(self.paths.roots(), {id(tensor) for _, tensor in alive})
        groups = Counter((*_born_at(entry), names.get(id(tensor))) for entry, tensor in alive)
        for (code, offset, op, module, owner, name), count in groups.items():
            marker = (ESCAPED_TENSORS, self._now(), owner, code, offset, (op, name, module, FORWARD))
            self._emit((OP_ROWS, "outliving", marker, [(0, 0, 0, count)]))

    def _read_failed(self, tensor: torch.Tensor) -> None:
        try:
            report_failed_version_read(tensor, self.sightings)
            self._note("Tensor._version", OpCounts(calls=1, failed_version_reads=1))
        except Exception as error:
            self._fault(error)

    def _puts_up(self) -> None:
        """Counts what operators before did to the same counters."""
        known = self._watchers.get(thread())
        if known is not None:
            try:
                with torch._C.DisableTorchFunction():
                    known.resolve_operators(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]
            except Exception as error:
                self._fault(error)

    def _put_up(self, tensors: Any) -> None:
        with torch._C.DisableTorchFunction():
            put_up = [tensors] if isinstance(tensors, torch.Tensor) else tensors
            number = sum(version_of(tensor) is not None for tensor in put_up)
        self._note("increment_version", OpCounts(calls=1, version_bumps=number))

    def _note(self, what: str, account: OpCounts) -> None:
        """Emits what the program did to version counters other than by an operator, at the line where it did."""
        try:
            frame = self.codes.find_user_frame(_getframe(2))
            at = (0, 0) if frame is None else (id(frame.f_code), frame.f_lasti)
            self._emit((OPERATOR, thread(), (*at, what, "", FORWARD, None), None, account))
        except Exception as error:
            self._fault(error)

    def _watcher(self) -> ThreadDispatcher:
        known = self._watchers.get(thread())
        if known is None:
            detectors = ThreadDetectors(self.sightings, self._autocasts, self._fault)
            known = make_dispatcher(
                self._emit,
                self._now,
                self._fault,
                self.codes,
                self.paths,
                self._tasks,
                self._elsewhere,
                detectors,
                self._native,
            )
            self._watchers[thread()] = known
        return known

    def _elsewhere(self, mode: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """An operator of a thread that took the mode over from another, as those of autograd's engine do."""
        return self._watcher().dispatch(mode, func, types, args, kwargs)


def _born_at(entry: CreationRecord) -> tuple[int, int, str, str, int]:
    _, _, code, offset, op, module, _, owner = entry
    return 0 if code is None else id(code), offset, op, module, owner


def _size(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())
