"""What one thread's events and operators give away of things going wrong, beside what they count."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from sys import _getframe
from types import CodeType, FrameType
from typing import Any

import torch

from gradprobe.capture.autograd.creation import REGISTRY, CreationRecord
from gradprobe.capture.autograd.graph import leaf_tensors
from gradprobe.capture.detectors.autocast_blocks import AutocastTracker, is_autocast_enabled
from gradprobe.capture.detectors.cut_graphs import CutGraphDetector
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.detectors.escaped_inference_tensors import EscapedTensorDetector, locate_tensor_creation
from gradprobe.capture.detectors.exception_diagnosis import diagnose_exception
from gradprobe.capture.detectors.exception_tracer import ExceptionTracer
from gradprobe.capture.detectors.interest import ALL_OPS, NO_OPS
from gradprobe.capture.detectors.leaked_modes import LeakedModeDetector
from gradprobe.capture.detectors.modified_saved_tensors import ModifiedSavedTensorDetector
from gradprobe.capture.detectors.running_totals import RunningTotalDetector
from gradprobe.capture.location.frames import find_frame_of, read_local
from gradprobe.capture.location.sites import TORCH_DIR
from gradprobe.recording.events import (
    ACTION_MASK,
    CONSTRUCT,
    DECORATED,
    ENABLE_GRAD,
    ENTER,
    EXIT,
    INFERENCE_MODE,
    SET_GRAD_ENABLED,
    Event,
)
from gradprobe.recording.notes import BlockAt, SourceLocation

_SUSPENDED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_FUNCTIONAL = f"{TORCH_DIR}autograd/functional.py"


class ThreadDetectors:
    """The detectors of one thread; ``armed`` is not empty while operators are worth a look, and then says which."""

    def __init__(self, sightings: DetectionLog, autocasts: AutocastTracker, fault: Callable[[Exception], None]) -> None:
        self.interest_cell: list[int] = []
        self.totals = RunningTotalDetector(sightings)
        self.changed = ModifiedSavedTensorDetector(sightings, lambda node: self.totals.origins.get(node))
        self._sightings, self._autocasts = sightings, autocasts
        self._cuts, self._escaped = CutGraphDetector(sightings), EscapedTensorDetector(sightings)
        self._standing = LeakedModeDetector(sightings)
        self._raising = ExceptionTracer(sightings.codes, self._raised, fault)
        self._has_escaped = False
        self._views: list[CreationRecord] = []
        self._callers: set[tuple[int, int]] = set()
        self._revived: tuple[list[SourceLocation | None], list[BlockAt]] | None = None
        self._entered: dict[int, int] = {}

    def event(self, event: Event, escaped: bool) -> None:
        """A manager was entered or left; ``escaped`` if inference tensors are alive outside of inference mode."""
        op, time, ident, code, offset, grad, inference, grad_after, _, key = event[:10]
        if op & ACTION_MASK == ENTER:
            if grad and not grad_after and offset == DECORATED:
                self._cuts.enter(key, code)
            if grad and not grad_after:
                self._standing.enter(key, code, offset)
            else:
                self._standing.leave(key)
            if op == ENABLE_GRAD | ENTER and inference:
                self._look_for_derivative(ident, time)
            if not grad_after and code is not None:
                self._sightings.enter(ident, key, time, code, offset)
                self._entered[key] = time
        elif op & ACTION_MASK == EXIT:
            self._cuts.leave(key)
            self._standing.leave(key)
            self._sightings.leave(ident, key, time)
            entered = self._entered.pop(key, time)
            if op == INFERENCE_MODE | EXIT:
                self._look_for_autocast(ident, entered)
            if torch.is_grad_enabled() and code is not None and not code.co_filename.startswith(TORCH_DIR):
                self._views += _views_of_older(ident, entered)
        elif op == SET_GRAD_ENABLED | CONSTRUCT and code is not None:
            if grad_after:
                self._standing.on_grad_enabled()
            elif grad:
                self._standing.call(key, code, offset)
                self._note_caller(code, offset)
        else:
            self._standing.leave(key)
        self._has_escaped = escaped
        while self._views and self._views[-1][0]() is None:
            self._views.pop()
        if escaped or (self._views and torch.is_grad_enabled()):
            self._raising.begin(self._sightings.find_user_frame(_getframe(1)))
        else:
            self._raising.end()
        self._arm()

    def look(self, name: str, args: Any, result: Any, code: CodeType | None, offset: int, records: bool) -> None:
        """An operator ran while ``armed``; ``records`` if autograd constructed a node for it."""
        if self._revived is not None:
            locations, under = self._revived
            self._revived = None
            self._sightings.add("GP705", [*locations, locate_instruction("ran under it here", code, offset)], under)
        if self._cuts.interest:
            self._cuts.look(args, result, code, offset, records)
        if not records and self._standing.interest:
            self._standing.look(args, code, offset)
        if self._has_escaped:
            self._escaped.look(name, args, code, offset, records)
        self._arm()

    def on_subclass_view(self) -> None:
        """A tensor subclass is viewed in inference mode, which PyTorch may refuse."""
        self._raising.begin(self._sightings.find_user_frame(_getframe(1)))

    def backward(self, outputs: list[torch.Tensor], runs: list[tuple[int, int]], frame: FrameType) -> None:
        """A backward begins in ``frame`` and goes through these runs of nodes."""
        if frame.f_code.co_name == "backward" and read_local(frame, "create_graph"):
            at = self._sightings.locate_frame("backward here", frame)
            self._sightings.add("GP203", [at, next(iter(locate_leaves(outputs)), None)])
        self.totals.reach(runs)
        self.changed.backward(outputs, self._sightings.locate_frame("backward here", frame))

    def finish(self) -> None:
        """The thread is watched no longer."""
        self._raising.end()
        self.totals.finish()

    def _arm(self) -> None:
        if self._has_escaped or self._revived is not None:
            wanted = ALL_OPS
        else:
            wanted = max(self._cuts.interest, self._standing.interest)
        if wanted != (self.interest_cell[0] if self.interest_cell else NO_OPS):
            self.interest_cell[:] = [wanted] if wanted else []

    def _raised(self, error: BaseException, trace: Any) -> None:
        found = diagnose_exception(error, trace, self._sightings)
        if found is not None and not self._sightings.is_known(error):
            self._sightings.add(found.rule, found.locations, found.under, error=str(error).split("\n")[0][:300])

    def _look_for_derivative(self, ident: int, time: int) -> None:
        """PyTorch's own ``jacobian`` and the like switch gradients on, in vain."""
        frame: FrameType | None = _getframe(1)
        while frame is not None and frame.f_code.co_filename != _FUNCTIONAL:
            if self._sightings.find_user_frame(frame) is frame:
                return
            frame = frame.f_back
        if frame is not None:
            called = self._sightings.locate_frame("called here", frame)
            self._sightings.add("GP501", [called], [BlockAt("inference mode entered here", ident, time)])

    def _look_for_autocast(self, ident: int, entered: int) -> None:
        """A guard of inference mode restores all that it found, even an autocast whose block has ended."""
        if self._autocasts.open.get(ident, 0) or not is_autocast_enabled() or ident not in self._autocasts.last:
            return
        frame = self._sightings.find_user_frame(_getframe(1))
        while frame is not None and frame.f_code.co_flags & (_SUSPENDED):
            frame = self._sightings.find_user_frame(frame.f_back)
        closed = None if frame is None else locate_instruction("left here", frame.f_code, frame.f_lasti)
        # The block is over by the time it is looked up: the moment after its entry is within it.
        under = [BlockAt("inference mode entered here", ident, entered + 1)]
        self._revived = [closed, self._autocasts.last[ident]], under

    def _note_caller(self, code: CodeType, offset: int) -> None:
        """Who called the function that calls ``set_grad_enabled``, the first time."""
        if (id(code), offset) in self._callers or code.co_name == "<module>":
            return
        self._callers.add((id(code), offset))
        frame = find_frame_of(_getframe(1), code)
        if frame is not None:
            caller = self._sightings.locate_frame("called from here", frame.f_back)
            if caller is not None:
                self._sightings.add("called", [locate_instruction("set here", code, offset), caller])


def locate_leaves(outputs: list[torch.Tensor]) -> Iterator[SourceLocation]:
    """Where the leaves behind ``outputs`` were made, as far as that was seen."""
    for leaf in leaf_tensors(outputs):
        found = locate_tensor_creation(leaf, "leaf made here")
        if found is not None:
            yield found


def _views_of_older(ident: int, entered: int) -> list[CreationRecord]:
    """The latest views that live of tensors older than a block of a thread, which may not be changed in place after it."""
    found = []
    try:
        for entry in reversed(REGISTRY.latest_views):
            if entry[1] >= entered > entry[6] >= 0:
                tensor = entry[0]()
                if tensor is not None and _is_floating_view(tensor):
                    found.append(entry)
            elif entry[1] < entered and entry[7] == ident:
                break  # what the thread made before is older still
    except RuntimeError:  # another thread added one
        return []
    return found


def _is_floating_view(tensor: Any) -> bool:
    with torch._C.DisableTorchFunction():
        return bool(tensor._is_view() and tensor.is_floating_point())
