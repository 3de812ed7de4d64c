"""Errors raised by signal handlers, which run wherever the main thread is, even inside a hook."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any


def is_raised_by_signal_handler(error: BaseException) -> bool:
    """Return whether a signal handler raised ``error``, as handlers that implement timeouts do."""
    handlers: set[CodeType] | None = None
    trace = error.__traceback__
    while trace is not None:
        if handlers is None:
            handlers = set(_handler_codes())
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _handler_codes() -> Iterator[CodeType]:
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        if callable(handler):
            code = _code(handler) or _code(getattr(handler, "func", None)) or _code(type(handler).__call__)
            if code is not None:
                yield code


def _code(function: Callable[..., Any] | None) -> CodeType | None:
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None
