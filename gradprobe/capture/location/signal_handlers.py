"""Handlers of signals: they run wherever the main thread happens to be, within our hooks too."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any


def is_raised_by_signal_handler(error: BaseException) -> bool:
    """Whether ``error`` came from a handler of a signal, as those that end what takes too long raise one."""
    handlers: set[CodeType] | None = None
    trace = error.__traceback__
    while trace is not None:
        if handlers is None:
            handlers = set(_handlers())
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _handlers() -> Iterator[CodeType]:
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        if callable(handler):
            code = _code_of(handler) or _code_of(getattr(handler, "func", None)) or _code_of(type(handler).__call__)
            if code is not None:
                yield code


def _code_of(function: Callable[..., Any] | None) -> CodeType | None:
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None
