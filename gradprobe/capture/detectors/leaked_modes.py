"""Modes that stand although the code that set them is no longer running: it returned, or is suspended in a ``yield``."""

from __future__ import annotations

import contextlib
import inspect
from sys import _getframe
from types import CodeType, FrameType
from typing import Any, NamedTuple

from gradprobe.capture.autograd.values import iter_tensors
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.detectors.interest import NO_OPS, OPS_ON_GRAD_TENSORS
from gradprobe.capture.location.sites import TORCH_DIR

# Generators that are meant to be suspended inside of a block: context managers, and fixtures of tests.
_MEANT = (contextlib.__file__, "/_pytest/", "/pluggy/")


class _Set(NamedTuple):
    rule: str
    code: CodeType
    offset: int


class LeakedModeDetector:
    """The modes without gradients that one thread set by a plain call in a function, or by a block in a generator."""

    def __init__(self, sightings: DetectionLog) -> None:
        self._sightings = sightings
        self._set: dict[int, _Set] = {}
        self._told: set[_Set] = set()

    @property
    def interest(self) -> int:
        """Which operators are worth looking at."""
        return OPS_ON_GRAD_TENSORS if self._set else NO_OPS

    def call(self, key: int, code: CodeType, offset: int) -> None:
        """``set_grad_enabled(False)`` was constructed: a plain call, if no block is entered with it."""
        if code.co_name != "<module>" and not code.co_filename.startswith(TORCH_DIR):
            self._note(key, _Set("GP101", code, offset))

    def enter(self, key: int, code: CodeType | None, offset: int) -> None:
        """A block was entered."""
        self._set.pop(key, None)
        if code is not None and code.co_flags & inspect.CO_GENERATOR and offset >= 0:
            frame: FrameType | None = _getframe(1)
            while frame is not None and frame.f_code is not code:
                frame = frame.f_back
            asked = None if frame is None else frame.f_back
            if asked is not None and not any(part in asked.f_code.co_filename for part in _MEANT):
                self._note(key, _Set("GP703", code, offset))

    def leave(self, key: int) -> None:
        """The block of this key was left, or the object has restored what it found."""
        self._set.pop(key, None)

    def on_grad_enabled(self) -> None:
        """Gradients were switched on again."""
        self._set = {key: found for key, found in self._set.items() if found.rule != "GP101"}

    def look(self, args: Any, code: CodeType | None, offset: int) -> None:
        """An operator ran at a place, and nothing was recorded of it."""
        operands = [
            *iter_tensors(args),
            *(t for arg in args if isinstance(arg, list | tuple) for t in iter_tensors(arg)),
        ]
        if not any(operand.requires_grad for operand in operands):
            return
        running = _running()
        for key, found in list(self._set.items()):
            if found.code not in running:
                del self._set[key]
                self._told.add(found)
                stands = locate_instruction("mode set here", found.code, found.offset)
                lost = locate_instruction("first gradient lost here", code, offset)
                self._sightings.add(found.rule, [stands, lost] if found.rule == "GP101" else [lost, stands])

    def _note(self, key: int, found: _Set) -> None:
        if found not in self._told:
            self._set[key] = found


def _running() -> set[CodeType]:
    found = set()
    frame: FrameType | None = _getframe(1)
    while frame is not None:
        found.add(frame.f_code)
        frame = frame.f_back
    return found
