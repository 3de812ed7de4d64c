"""Seeing exceptions that the program catches itself, in the stretches where inference tensors are about to fail.

PyTorch raises most of them above every hook that it has. Python tells of each to a trace function, which makes pure
Python take about twice as long. So a thread has one only while something is alive that may make it fail, and never where
the program, a debugger or a coverage tool has one of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from gradprobe.capture.location.frames import USER, FrameClassifier


class ExceptionTracer:
    """The trace function of one thread. Its methods are called in that thread."""

    def __init__(
        self, codes: FrameClassifier, raised: Callable[[BaseException, Any], None], fault: Callable[[Exception], None]
    ) -> None:
        self._codes, self._raised, self._fault = codes, raised, fault
        self._is_on = False
        self._in_frame, self._of_calls = self._make()

    def begin(self, frame: FrameType | None) -> None:
        """Sees what is raised in ``frame`` and those around it, and in all that are called from here on."""
        if self._is_on or sys.gettrace() is not None:
            return
        self._is_on = True
        while frame is not None:
            if self._codes.kind(frame.f_code) == USER and frame.f_trace is None:
                frame.f_trace, frame.f_trace_lines = self._in_frame, False
            frame = frame.f_back
        sys.settrace(self._of_calls)

    def end(self) -> None:
        """Sees no more, unless the program has put a trace function of its own there meanwhile."""
        if self._is_on:
            self._is_on = False
            if sys.gettrace() is self._of_calls:
                sys.settrace(None)

    def _make(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        kinds: dict[int, int] = self._codes.kinds
        kind: Callable[[CodeType], int] = self._codes.kind

        def in_frame(frame: FrameType, event: str, argument: Any) -> Any:
            if not self._is_on:
                frame.f_trace = None
                return None
            if event == "exception" and isinstance(argument[1], RuntimeError):
                try:
                    self._raised(argument[1], argument[2])
                except Exception as error:  # it would take the place of the program's own
                    self._fault(error)
            return in_frame

        def of_calls(frame: FrameType, event: str, argument: Any) -> Any:
            code = frame.f_code
            if (kinds.get(id(code)) or kind(code)) != USER:
                return None
            frame.f_trace_lines = False
            return in_frame

        return in_frame, of_calls
