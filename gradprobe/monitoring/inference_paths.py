"""Inference paths: functions that a monitor expects to build no autograd graph."""

from __future__ import annotations

import itertools
import threading
from _thread import get_ident
from collections.abc import Callable
from queue import SimpleQueue
from types import CodeType
from typing import Any, NamedTuple, TypeVar, cast

import torch

from gradprobe._resumable import around
from gradprobe.capture.clock import Clock
from gradprobe.capture.location.callers import unwrap_code
from gradprobe.capture.patching.compile_skip import is_tracing
from gradprobe.capture.routing import CALL_BITS
from gradprobe.errors import GradprobeError
from gradprobe.recorder import get_session
from gradprobe.recording.events import CALL, DECORATED, ENTER, EXIT, SUSPEND

F = TypeVar("F", bound=Callable[..., Any])
_CALL_MASK = (1 << CALL_BITS) - 1


class GraphBuilt(NamedTuple):
    """A call of an inference path that built an autograd graph, as passed to ``on_graph``.

    Example::

        def warn(built):
            logging.warning("%s:%s built %d autograd nodes", built.file, built.line, built.nodes)

        monitor = gradprobe.monitor(on_graph=warn)
    """

    function: str
    """Qualified name of the function."""
    file: str | None
    """File in which the function is defined, or None if it has no Python code."""
    line: int | None
    """First line of the function, or None if it has no Python code."""
    thread: str
    """Name of the thread that ran the call, or ``""`` if it is not known."""
    nodes: int
    """Number of autograd nodes that the call constructed while grad mode was enabled."""


class InferencePaths:
    """Decorator of the inference paths of one monitor. Their calls emit events while ``on`` is true."""

    def __init__(self, clock: Clock) -> None:
        self.on = False
        self._clock = clock
        self._calls = itertools.count()

    def decorate(self, function: F) -> F:
        """Return ``function`` such that each call, and each step of a call, emits its begin and its end."""
        if not callable(function) or isinstance(function, type):
            raise GradprobeError(
                f"cannot monitor {function!r}: it is not a function or method; decorate the methods of a class"
            )
        code = unwrap_code(function)

        def on_begin(key: int | None, arguments: tuple[Any, ...], named: dict[str, Any]) -> int:
            if key is None:
                # No sink has the number 0, so no probe takes the call for one of its own.
                key = next(self._calls) & _CALL_MASK
            self._emit(CALL | ENTER, code, key, None)
            return key

        def on_end(key: int, error: BaseException | None, is_over: bool, result: Any) -> None:
            self._emit(CALL | (EXIT if is_over else SUSPEND), None, key, None if error is None else type(error))

        return cast(F, around(function, on_begin, on_end, switch=self, is_bypassed=is_tracing))

    def _emit(self, op: int, code: CodeType | None, key: int, extra: Any) -> None:
        session = get_session(self._clock)
        try:
            grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            now = self._clock.now()
            session.emit((op, now, get_ident(), code, DECORATED, grad, inference, grad, inference, key, extra))
        except Exception as error:
            session.fault(error)


class GraphListener:
    """A thread that calls ``on_graph``, so that a slow callback delays neither program nor writer."""

    def __init__(self, on_graph: Callable[[GraphBuilt], object], fault: Callable[[str, int], None]) -> None:
        self._on_graph, self._fault = on_graph, fault
        self._queue: SimpleQueue[GraphBuilt | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._listen, name="gradprobe monitor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, built: GraphBuilt) -> None:
        """Queue a graph for the callback."""
        self._queue.put(built)

    def stop(self) -> None:
        """End the thread once the callback has received everything queued so far."""
        self._queue.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _listen(self) -> None:
        while (built := self._queue.get()) is not None:
            try:
                self._on_graph(built)
            except Exception as error:  # the callback receives the next call all the same
                self._fault(f"on_graph raised {type(error).__name__}: {error}"[:300], 1)
