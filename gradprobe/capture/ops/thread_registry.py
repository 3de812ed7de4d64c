"""What watches operators in all threads: their modes, their accounts, and what the program does to versions by hand."""

from __future__ import annotations

from _thread import get_ident as thread
from collections import Counter
from collections.abc import Callable
from sys import _getframe
from types import CodeType, FrameType, MethodType
from typing import Any

import torch

from gradprobe.capture.autograd.creation import REGISTRY, Entry, Outliving, holders, no_tensor, swap_patches
from gradprobe.capture.autograd.saved_storages import STORAGES
from gradprobe.capture.autograd.version_counters import version_of, version_patches
from gradprobe.capture.detectors.activation_hooks import look_at_hooks
from gradprobe.capture.detectors.autocast_blocks import Autocasts
from gradprobe.capture.detectors.detection_log import Sightings
from gradprobe.capture.detectors.exception_diagnosis import look_at_failed_read
from gradprobe.capture.detectors.exception_notes import note_on
from gradprobe.capture.detectors.thread_detectors import Lookout
from gradprobe.capture.detectors.thread_handoff import Handing
from gradprobe.capture.location.callers import Tasks
from gradprobe.capture.location.frames import USERS, Codes
from gradprobe.capture.location.module_paths import ModulePaths
from gradprobe.capture.ops.dispatch_mode import Mode, insert, remove
from gradprobe.capture.ops.dispatcher import Watcher, watcher
from gradprobe.capture.ops.native.loader import core, in_use
from gradprobe.capture.patching.patches import Patches
from gradprobe.recording.events import ENTER, EXIT, INFERENCE_MODE, KIND, LEDGER, OPERATOR, OUTLIVED, Event
from gradprobe.recording.op_rows import FORWARD, Account

_LEFT_INFERENCE = INFERENCE_MODE | EXIT
_is_inference = torch.is_inference_mode_enabled


class Operators:
    """The watchers of all threads, and the modes on their stacks."""

    def __init__(
        self,
        emit: Callable[[Event], object],
        now: Callable[[], int],
        fault: Callable[[Exception], None],
        tasks: Tasks,
    ) -> None:
        self._emit, self._now, self._fault, self._tasks = emit, now, fault, tasks
        self.codes = Codes()
        self.paths = ModulePaths()
        self._watchers: dict[int, Watcher] = {}
        self._modes: dict[int, tuple[Mode, int]] = {}
        self._outlived = Outliving()
        self._patches = Patches()
        self.sightings = Sightings(self.codes, now)
        self._autocasts = Autocasts(self.sightings, thread, fault)
        self.handing = Handing(self.sightings, now, self.settle, fault)
        self._hook_looks = self._installed = 0
        self._native: Any = None

    def watch_thread(self) -> None:
        """Watches this thread from here on; calls nest."""
        ident = thread()
        mode, depth = self._modes.get(ident, (None, 0))
        if not self._modes:
            self._native = core() if in_use()[0] else None
        if mode is None:
            mode = Mode()  # type: ignore[no-untyped-call]
            # An attribute of the object: each thread has its own function, whose variables are the thread's state.
            known = self._watcher()
            mode.__torch_dispatch__ = MethodType(known.dispatch, mode)  # type: ignore[method-assign]
            insert(mode)
            known.core.begin(mode)
        if not self._patches.are_applied:
            self._installed += 1
            once = self._while_installed
            versions = version_patches(once(self._read_failed), self._puts_up, once(self._put_up))
            others = [*swap_patches(self.settle, self._forget), *self._autocasts.patches(), *self.handing.patches()]
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

    def unwatch_thread(self) -> None:
        """Undoes one ``watch_thread`` of this thread; the last one takes the mode from the stack."""
        ident = thread()
        mode, depth = self._modes.get(ident, (None, 0))
        if mode is None:
            return
        if depth > 1:
            self._modes[ident] = mode, depth - 1
            return
        del self._modes[ident]
        self.settle()
        remove(mode)
        vars(mode).pop("__torch_dispatch__", None)  # it refers to the mode
        known = self._watchers.pop(ident, None)
        if known is not None:
            self._safely(known.core.end)
            self._safely(known.lookout.finish)

    def leave_thread(self) -> None:
        """Undoes all ``watch_thread`` of this thread at once."""
        while thread() in self._modes:
            self.unwatch_thread()

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
        self._safely(STORAGES.clear)
        self.sightings.outlived = None
        self._safely(REGISTRY.forget_parameters)

    def flush(self) -> None:
        """Emits what has gathered in the native cores of all threads."""
        for known in list(self._watchers.values()):
            self._safely(known.core.flush_each)

    def settle(self) -> None:
        """Emits what is pending in this thread: its modes are about to change."""
        known = self._watchers.get(thread())
        if known is not None:
            try:
                known.settle()
            except Exception as error:
                self._fault(error)

    def event(self, event: Event) -> None:
        """A manager was entered or left in this thread: settles what is pending, and looks out for what goes wrong."""
        known = self._watchers.get(thread())
        if known is None:
            return
        try:
            known.settle()
        except Exception as error:
            self._fault(error)
        try:
            op, is_outside = event[0], not _is_inference()
            if op == _LEFT_INFERENCE and is_outside:
                self._note_outliving(known)
            if op & KIND == ENTER and event[5] and not event[7] and self._is_users(event[3]):
                self._look_at_hooks()
            known.lookout.event(event, is_outside and self._outlived.any_alive())
        except Exception as error:
            self._fault(error)

    def note_on(self, error: BaseException) -> None:
        """An exception of the program passes through a recording."""
        if self._modes:
            self.settle()
            self._safely(lambda: note_on(error, self.sightings))

    def backward(self, outputs: list[torch.Tensor], runs: list[tuple[int, int]], frame: FrameType) -> None:
        """A backward begins in ``frame`` and goes through these runs of nodes."""
        known = self._watchers.get(thread())
        if known is not None:
            self.settle()
            known.lookout.backward(outputs, runs, frame)

    def _is_users(self, code: CodeType | None) -> bool:
        return code is not None and self.codes.kind(code) == USERS

    def _forget(self, tensor: Any) -> None:
        REGISTRY.forget(tensor)
        for outliving in (self._outlived, *(known.outliving for known in self._watchers.values())):
            outliving.forget(tensor)

    def _look_at_hooks(self) -> None:
        """What hooks keep, at the first moments when gradients are switched off and then ever more rarely."""
        self._hook_looks += 1
        if self._hook_looks & (self._hook_looks - 1) == 0:
            with torch._C.DisableTorchFunction():
                look_at_hooks(self.paths.roots(), self.sightings)

    def _safely(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:
            self._fault(error)

    def _note_outliving(self, known: Watcher) -> None:
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
                self.sightings.outlived = (no_tensor, *entry[1:])
        for (code, offset, op, module, _), group in groups.items():
            marker = (OUTLIVED, self._now(), thread(), code, offset, (op, None, module, FORWARD))
            self._emit((LEDGER, "outliving", marker, [(*group, 0)]))

    def note_held(self) -> None:
        """Emits which inference tensors outlived inference mode and are alive now, and which modules hold them."""
        self._hook_looks = 0
        self._safely(self._look_at_hooks)
        alive = [(entry, tensor) for entry in self._outlived.take() if (tensor := entry[0]()) is not None]
        names = holders(self.paths.roots(), {id(tensor) for _, tensor in alive})
        groups = Counter((*_born_at(entry), names.get(id(tensor))) for entry, tensor in alive)
        for (code, offset, op, module, owner, name), count in groups.items():
            marker = (OUTLIVED, self._now(), owner, code, offset, (op, name, module, FORWARD))
            self._emit((LEDGER, "outliving", marker, [(0, 0, 0, count)]))

    def _read_failed(self, tensor: torch.Tensor) -> None:
        try:
            look_at_failed_read(tensor, self.sightings)
            self._note("Tensor._version", Account(calls=1, failed_version_reads=1))
        except Exception as error:
            self._fault(error)

    def _puts_up(self) -> None:
        """Counts what operators before did to the same counters."""
        known = self._watchers.get(thread())
        if known is not None:
            try:
                with torch._C.DisableTorchFunction():
                    known.settle_operators(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]
            except Exception as error:
                self._fault(error)

    def _put_up(self, tensors: Any) -> None:
        with torch._C.DisableTorchFunction():
            put_up = [tensors] if isinstance(tensors, torch.Tensor) else tensors
            number = sum(version_of(tensor) is not None for tensor in put_up)
        self._note("increment_version", Account(calls=1, version_bumps=number))

    def _note(self, what: str, account: Account) -> None:
        """Emits what the program did to version counters other than by an operator, at the line where it did."""
        try:
            frame: FrameType | None = _getframe(2)
            while frame is not None and self.codes.kind(frame.f_code) != USERS:
                frame = frame.f_back
            at = (0, 0) if frame is None else (id(frame.f_code), frame.f_lasti)
            self._emit((OPERATOR, thread(), (*at, what, "", FORWARD, None), None, account))
        except Exception as error:
            self._fault(error)

    def _watcher(self) -> Watcher:
        known = self._watchers.get(thread())
        if known is None:
            lookout = Lookout(self.sightings, self._autocasts, self._fault)
            known = watcher(
                self._emit,
                self._now,
                self._fault,
                self.codes,
                self.paths,
                self._tasks,
                self._elsewhere,
                lookout,
                self._native,
            )
            self._watchers[thread()] = known
        return known

    def _elsewhere(self, mode: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """An operator of a thread that took the mode over from another, as those of autograd's engine do."""
        return self._watcher().dispatch(mode, func, types, args, kwargs)


def _born_at(entry: Entry) -> tuple[int, int, str, str, int]:
    _, _, code, offset, op, module, _, owner = entry
    return 0 if code is None else id(code), offset, op, module, owner


def _size(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())
