"""Graphs that a decorated function cuts: what it was given requires grad, and its result, which does not, is trained on.

Under ``no_grad`` this is what everybody asks for who trains against a fixed target, so it is looked for only where the
program's line does not show it: where the mode comes with a decorator, and the caller has gradients on. Parameters alone
say nothing, as a fixed target has them too, but where a module's own ``forward`` is the caller.
"""

from __future__ import annotations

from sys import _getframe
from types import CodeType, FrameType
from typing import Any, NamedTuple

from gradprobe.capture.autograd.creation import REGISTRY, CreationRecord
from gradprobe.capture.autograd.values import iter_tensors
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.detectors.interest import ALL_OPS, NO_OPS, OPS_ON_GRAD_TENSORS, OPS_ON_GRAPH_RESULTS
from gradprobe.capture.location.callers import DECORATOR_CODE
from gradprobe.capture.location.sites import TORCH_DIR
from gradprobe.recording.notes import SourceLocation

_MOST = 10_000
"""Tensors that are watched for being trained on."""


class _Open(NamedTuple):
    """A decorated function that runs: the key of its block, its place and that of its call."""

    key: int
    entered: SourceLocation
    called: SourceLocation | None
    is_in_forward: bool


class _Cut(NamedTuple):
    """A tensor without a graph that would have one but for a decorator: its birth, where it was cut off, and by whom."""

    entry: CreationRecord
    made: SourceLocation | None
    under: _Open


class CutGraphDetector:
    """The decorated functions that a thread is in, and what came out of them without the graph it would have had."""

    def __init__(self, sightings: DetectionLog) -> None:
        self._sightings = sightings
        self._open: list[_Open] = []
        self._cut: dict[int, _Cut] = {}

    @property
    def interest(self) -> int:
        """Which operators are worth looking at."""
        if self._open:
            return OPS_ON_GRAD_TENSORS if self._open[-1].is_in_forward else OPS_ON_GRAPH_RESULTS
        return ALL_OPS if self._cut else NO_OPS

    def enter(self, key: int, code: CodeType | None) -> None:
        """A manager without gradients was entered by the decorator of a function, from where they were on."""
        frame: FrameType | None = _getframe(1)
        while frame is not None and frame.f_code is not DECORATOR_CODE:
            frame = frame.f_back
        if frame is None or code is None or code.co_filename.startswith(TORCH_DIR):
            return
        entered = SourceLocation("decorated here", code.co_filename, code.co_firstlineno, code.co_name)
        caller = self._sightings.find_user_frame(frame.f_back)
        called = None if caller is None else locate_instruction("called here", caller.f_code, caller.f_lasti)
        is_in_forward = caller is not None and caller.f_code.co_name == "forward"
        self._open.append(_Open(key, entered, called, is_in_forward))

    def leave(self, key: int) -> None:
        """The block of this key was left."""
        if self._open and self._open[-1].key == key:
            self._open.pop()

    def look(self, args: Any, result: Any, code: CodeType | None, offset: int, records: bool) -> None:
        """An operator ran at a place; ``records`` if autograd constructed a node for it."""
        operands = list(iter_tensors(args))
        for arg in args:
            if isinstance(arg, list | tuple):
                operands += iter_tensors(arg)
        if self._open:
            under = self._open[-1]
            if not records and any(o.requires_grad and (under.is_in_forward or not o.is_leaf) for o in operands):
                self._mark(result, locate_instruction("cut here", code, offset), under)
            return
        for operand in operands:
            cut = self._cut.get(id(operand))
            if cut is None or REGISTRY.get(operand) is not cut.entry:
                continue
            if records:
                del self._cut[id(operand)]
                used = locate_instruction("trained on here", code, offset)
                self._sightings.add("GP105", [cut.under.called, cut.under.entered, cut.made, used])
            else:
                self._mark(result, cut.made, cut.under)

    def _mark(self, result: Any, made: SourceLocation | None, under: _Open) -> None:
        if len(self._cut) >= _MOST:
            self._cut = {key: cut for key, cut in self._cut.items() if cut.entry[0]() is not None}
        for tensor in iter_tensors(result):
            entry = REGISTRY.get(tensor)
            if entry is not None and tensor.is_floating_point() and len(self._cut) < _MOST:
                self._cut[id(tensor)] = _Cut(entry, made, under)
