"""Tracer of exceptions that the program catches itself, while inference tensors may make it fail.

PyTorch raises most of them above all its hooks. Python reports each to a trace function, which makes pure Python take about
twice as long. So a thread has one only while a tensor exists that may make it fail, and never if the program, a debugger or
a coverage tool has set one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from gradprobe.capture.location.frames import USER, FrameClassifier

_RAISED_BY_AUTOGRAD = (RuntimeError, TypeError, ValueError, BufferError, AssertionError)


class ExceptionTracer:
    """The trace function of one thread. Call the methods in that thread."""

    def __init__(
        self, codes: FrameClassifier, raised: Callable[[BaseException, Any], None], fault: Callable[[Exception], None]
    ) -> None:
        self._codes, self._raised, self._fault = codes, raised, fault
        self.is_on = False
        """True while the thread has the trace function."""
        self._on_event, self._on_call = self._make_functions()

    def begin(self, frame: FrameType | None) -> None:
        """Trace exceptions in ``frame``, in the frames around it, and in all functions called from now on."""
        if self.is_on or sys.gettrace() is not None:
            return
        self.is_on = True
        while frame is not None:
            if self._codes.kind(frame.f_code) == USER and frame.f_trace is None:
                frame.f_trace, frame.f_trace_lines = self._on_event, False
            frame = frame.f_back
        sys.settrace(self._on_call)

    def end(self) -> None:
        """Remove the trace function, unless the program has set another one since."""
        if self.is_on:
            self.is_on = False
            if sys.gettrace() is self._on_call:
                sys.settrace(None)

    def _make_functions(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        kinds: dict[int, int] = self._codes.kinds
        kind: Callable[[CodeType], int] = self._codes.kind

        def on_event(frame: FrameType, event: str, argument: Any) -> Any:
            if not self.is_on:
                frame.f_trace = None
                return None
            if event == "exception" and isinstance(argument[1], _RAISED_BY_AUTOGRAD):
                try:
                    self._raised(argument[1], argument[2])
                except Exception as error:  # it would replace the program's own exception
                    self._fault(error)
            return on_event

        def on_call(frame: FrameType, event: str, argument: Any) -> Any:
            code = frame.f_code
            if (kinds.get(id(code)) or kind(code)) != USER:
                return None
            frame.f_trace_lines = False
            return on_event

        return on_event, on_call
