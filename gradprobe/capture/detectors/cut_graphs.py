"""Detector of graphs cut by a decorator (GP105).

A decorated function takes tensors that require grad, and its result, which does not, is trained on. With a ``no_grad``
block that is the usual way to train against a fixed target, so it is reported only if the program's line does not show it:
if a decorator sets the mode while grad is enabled in the caller. Parameters alone prove nothing, because a fixed target has
them too, unless a module's own ``forward`` is the caller.
"""

from __future__ import annotations

from sys import _getframe
from types import CodeType, FrameType
from typing import Any, NamedTuple

from gradprobe.capture.autograd.creation import REGISTRY, CreationRecord, is_same_creation
from gradprobe.capture.autograd.values import iter_tensors
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.detectors.interest import ALL_OPS, NO_OPS, OPS_ON_GRAD_TENSORS, OPS_ON_GRAPH_RESULTS
from gradprobe.capture.location.callers import DECORATOR_CODE
from gradprobe.capture.location.sites import TORCH_DIR
from gradprobe.recording.notes import SourceLocation

_MAX_CUT_TENSORS = 10_000
"""Maximum number of tensors tracked for being trained on."""


class _OpenFunction(NamedTuple):
    """A decorated function that is running: the key of its block, its line and the line of its call."""

    key: int
    entered: SourceLocation
    called: SourceLocation | None
    is_in_forward: bool


class _CutTensor(NamedTuple):
    """A tensor without a graph because of a decorator: its record, the line of the cut, the function."""

    entry: CreationRecord
    cut_at: SourceLocation | None
    under: _OpenFunction


class CutGraphDetector:
    """Detector of one thread: the decorated functions running in it, and the tensors that they cut."""

    def __init__(self, log: DetectionLog) -> None:
        self._log = log
        self._open: list[_OpenFunction] = []
        self._cut: dict[int, _CutTensor] = {}

    @property
    def interest(self) -> int:
        """Class of operators to look at, from ``interest.py``."""
        if self._open:
            return OPS_ON_GRAD_TENSORS if self._open[-1].is_in_forward else OPS_ON_GRAPH_RESULTS
        return ALL_OPS if self._cut else NO_OPS

    def on_enter(self, key: int, code: CodeType | None) -> None:
        """Note that a decorator disabled grad for the function that it calls."""
        frame: FrameType | None = _getframe(1)
        while frame is not None and frame.f_code is not DECORATOR_CODE:
            frame = frame.f_back
        if frame is None or code is None or code.co_filename.startswith(TORCH_DIR):
            return
        entered = SourceLocation("decorated here", code.co_filename, code.co_firstlineno, code.co_name)
        caller = self._log.find_user_frame(frame.f_back)
        called = None if caller is None else locate_instruction("called here", caller.f_code, caller.f_lasti)
        is_in_forward = caller is not None and caller.f_code.co_name == "forward"
        self._open.append(_OpenFunction(key, entered, called, is_in_forward))

    def on_exit(self, key: int) -> None:
        """Note that the block with this key was exited."""
        if self._open and self._open[-1].key == key:
            self._open.pop()

    def on_operator(self, args: Any, result: Any, code: CodeType | None, offset: int, has_node: bool) -> None:
        """Look at an operator that ran; ``has_node`` if autograd constructed a node for it."""
        operands = list(iter_tensors(args))
        for arg in args:
            if isinstance(arg, list | tuple):
                operands += iter_tensors(arg)
        if self._open:
            under = self._open[-1]
            if not has_node and any(o.requires_grad and (under.is_in_forward or not o.is_leaf) for o in operands):
                self._mark(result, locate_instruction("cut here", code, offset), under)
            return
        for operand in operands:
            cut = self._cut.get(id(operand))
            if cut is None or not is_same_creation(REGISTRY.get(operand), cut.entry):
                continue
            if has_node:
                del self._cut[id(operand)]
                used = locate_instruction("trained on here", code, offset)
                self._log.add("GP105", [cut.under.called, cut.under.entered, cut.cut_at, used])
            else:
                self._mark(result, cut.cut_at, cut.under)

    def _mark(self, result: Any, cut_at: SourceLocation | None, under: _OpenFunction) -> None:
        if len(self._cut) >= _MAX_CUT_TENSORS:
            self._cut = {key: cut for key, cut in self._cut.items() if cut.entry[0]() is not None}
        for tensor in iter_tensors(result):
            entry = REGISTRY.get(tensor)
            if entry is not None and tensor.is_floating_point() and len(self._cut) < _MAX_CUT_TENSORS:
                self._cut[id(tensor)] = _CutTensor(entry, cut_at, under)
