"""Detector of hooks on tensors that change the gradients they are given, or make zeros of them (GP524).

Where a hook was registered is known from the call that did; what it does, from the operators that its code runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from sys import _getframe
from types import CodeType, MethodType
from typing import Any

from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.location.frames import walk_frames
from gradprobe.recording.notes import SourceLocation

_MAX_HOOKS, _MAX_FRAMES, _MAX_WRAPPERS = 1_000, 20, 8


class GradientHookDetector:
    """The hooks on tensors of one session.

    Args:
        log: The log of detections.
    """

    def __init__(self, log: DetectionLog) -> None:
        self._log = log
        self._registered: dict[CodeType, SourceLocation | None] = {}

    def on_registered(self, arguments: tuple[Any, ...]) -> None:
        """Note the line that registers a hook; the arguments are the tensor and the hook."""
        code = _find_code(arguments[1]) if len(arguments) > 1 else None
        if code is not None and (code in self._registered or len(self._registered) < _MAX_HOOKS):
            self._registered[code] = self._log.locate_frame("hook registered here", _getframe(1))

    def find_registration(self, name: str) -> SourceLocation | None:
        """Return the line that registered the latest hook whose function has this name."""
        return next((line for code, line in reversed(self._registered.items()) if code.co_name == name), None)

    def on_operator(
        self,
        code: int,
        offset: int,
        backward_code: int,
        backward_offset: int,
        writes: bool,
        is_shared: bool,
        is_zero: bool,
    ) -> None:
        """Handle an operator in a backward that writes a gradient of the engine's in place, or makes zeros of one.

        Args:
            code: The identity of the code that runs it.
            offset: The offset of its instruction.
            backward_code: The same of the line that called the backward.
            backward_offset: The offset there.
            writes: Whether it writes in place.
            is_shared: Whether the engine has the gradient for other tensors too.
            is_zero: Whether the result has no other number than zero.
        """
        frames = zip(range(_MAX_FRAMES), walk_frames(_getframe(1)), strict=False)
        hook = next((frame.f_code for _, frame in frames if frame.f_code in self._registered), None)
        if hook is None:
            return
        held = self._log.codes.held
        role = (
            "zeros made here" if is_zero else "shared gradient changed here" if is_shared else "gradient changed here"
        )
        called = locate_instruction("backward called here", held.get(backward_code), backward_offset)
        lines = [locate_instruction(role, held.get(code), offset), self._registered[hook], called]
        self._log.add("GP524", lines, writes=writes, shared=is_shared, zeros=is_zero)


def _find_code(hook: Callable[..., Any]) -> CodeType | None:
    """Return the code that a hook runs first: of a function, a method, a partial call, or an object that can be called."""
    found: Any = hook
    for _ in range(_MAX_WRAPPERS):
        code = getattr(found, "__code__", None)
        if isinstance(code, CodeType):
            return code
        if isinstance(found, functools.partial):
            found = found.func
        else:
            found = found.__func__ if isinstance(found, MethodType) else getattr(type(found), "__call__", None)  # noqa: B004
    return None
