"""Detector of modes left set after the function or generator that set them returned or yielded.

Rules GP101 and GP703."""

from __future__ import annotations

import contextlib
import inspect
from sys import _getframe
from types import CodeType, FrameType
from typing import Any, NamedTuple

from gradprobe.capture.autograd.values import iter_tensors
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.location.sites import TORCH_DIR

# Callers of generators that are meant to be suspended inside a block: context managers and test fixtures.
_INTENDED_CALLERS = (contextlib.__file__, "/_pytest/", "/pluggy/")


class _ModeSet(NamedTuple):
    rule: str
    code: CodeType
    offset: int


class LeakedModeDetector:
    """Detector of one thread: the calls in functions and the blocks in generators that disabled grad."""

    def __init__(self, log: DetectionLog) -> None:
        self._log = log
        self._set: dict[int, _ModeSet] = {}
        self._reported: set[_ModeSet] = set()

    @property
    def is_waiting(self) -> bool:
        """Whether a mode was set whose function may return with it: operators on tensors that require grad tell."""
        return bool(self._set)

    def on_call(self, key: int, code: CodeType, offset: int) -> None:
        """Note that ``set_grad_enabled(False)`` was called: a plain call, unless a block is entered with it."""
        if code.co_name != "<module>" and not code.co_filename.startswith(TORCH_DIR):
            self._add(key, _ModeSet("GP101", code, offset))

    def on_enter(self, key: int, code: CodeType | None, offset: int) -> None:
        """Note that a block that disables grad was entered."""
        self._set.pop(key, None)
        if code is not None and code.co_flags & inspect.CO_GENERATOR and offset >= 0:
            frame: FrameType | None = _getframe(1)
            while frame is not None and frame.f_code is not code:
                frame = frame.f_back
            caller = None if frame is None else frame.f_back
            if caller is not None and not any(part in caller.f_code.co_filename for part in _INTENDED_CALLERS):
                self._add(key, _ModeSet("GP703", code, offset))

    def on_exit(self, key: int) -> None:
        """Note that the block with this key was exited, or that its object restored the mode before."""
        self._set.pop(key, None)

    def on_grad_enabled(self) -> None:
        """Note that grad was enabled again."""
        self._set = {key: found for key, found in self._set.items() if found.rule != "GP101"}

    def on_operator(self, args: Any, code: CodeType | None, offset: int) -> None:
        """Look at an operator that ran without a node."""
        operands = [
            *iter_tensors(args),
            *(t for arg in args if isinstance(arg, list | tuple) for t in iter_tensors(arg)),
        ]
        if not any(operand.requires_grad for operand in operands):
            return
        running = _running_code()
        for key, found in list(self._set.items()):
            if found.code not in running:
                del self._set[key]
                self._reported.add(found)
                set_at = locate_instruction("mode set here", found.code, found.offset)
                lost_at = locate_instruction("first gradient lost here", code, offset)
                self._log.add(found.rule, [set_at, lost_at] if found.rule == "GP101" else [lost_at, set_at])

    def _add(self, key: int, found: _ModeSet) -> None:
        if found not in self._reported:
            self._set[key] = found


def _running_code() -> set[CodeType]:
    found = set()
    frame: FrameType | None = _getframe(1)
    while frame is not None:
        found.add(frame.f_code)
        frame = frame.f_back
    return found
