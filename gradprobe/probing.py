"""``@gradprobe.probe``: a recording of what one function or block does, and of nothing outside of it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import sys
from _thread import get_ident
from collections.abc import Callable
from types import CodeType, TracebackType
from typing import Any, TypeVar, cast, overload

import torch

from gradprobe._resumable import around, is_resumable
from gradprobe._switch import DISABLED_AT_IMPORT, switch
from gradprobe.capture.autograd.call_effects import CallEffects
from gradprobe.capture.clock import SYSTEM, Clock
from gradprobe.capture.location.callers import find_caller, unwrap_code
from gradprobe.capture.patching.compile_skip import is_tracing
from gradprobe.capture.routing import CALL_BITS
from gradprobe.capture.session import Session
from gradprobe.environment import environment
from gradprobe.errors import GradprobeError
from gradprobe.recorder import check_level, get_session
from gradprobe.recording.contents import Contents
from gradprobe.recording.events import CALL, DECORATED, ENTER, EXIT, SUSPEND
from gradprobe.recording.sqlite_file import Store
from gradprobe.recording.writer import AGGREGATE, DEFAULT_LIMIT, Writer
from gradprobe.result import Recording

F = TypeVar("F", bound=Callable[..., Any])


@overload
def probe(function: F, /) -> F: ...
@overload
def probe(*, level: str = ..., name: str | None = ...) -> Probe: ...
def probe(function: Any = None, /, *, level: str = "graph", name: str | None = None) -> Any:
    """Record the grad modes, and what they cause, in each call of one function or block.

    Use it as a decorator, with or without brackets, or as a ``with`` block. It decorates functions, methods, generator
    functions, ``async def`` and asynchronous generators. Only the calling thread is recorded, while the call is running;
    threads that the call starts are not. Of a generator or a coroutine only the steps of its own body count, not what
    runs while it is suspended. Code that ``torch.compile`` traces calls the bare function.

    ``gradprobe.disable()`` makes the probe inert. In a process started with ``GRADPROBE=0`` the decorator returns the
    function unchanged.

    Args:
        function (Callable, optional): The function to decorate, if the decorator is used without brackets.
        level (str): Amount of detail. ``"modes"``: mode transitions and times. ``"graph"``: also autograd nodes, bytes
            saved for backward and version bumps. ``"ops"``: also each operator. Default: ``"graph"``.
        name (str, optional): Name of the probe in reports. Default: the qualified name of the function, or the line of
            the block.

    Returns:
        Callable or Probe: the decorated function, of the same kind as ``function``, or a :class:`Probe` if no function is
        given. The attribute ``recording`` of either is a :class:`Recording` of all calls so far.

    Raises:
        GradprobeError: ``level`` is unknown, ``name`` is empty, or the decorated object is not a function.

    Example::

        @gradprobe.probe
        def evaluate(model, batch):
            with torch.no_grad():
                return model(batch)

        evaluate(model, batch)
        evaluate.recording.summary()

        with gradprobe.probe(name="validation", level="ops") as probe:
            validate(model)
        print(probe.recording.ops)
    """
    probe_object = Probe(level, name)
    return probe_object if function is None else probe_object(function)


class Probe:
    """A decorator and context manager that records calls or blocks; ``probe()`` returns it.

    One probe may decorate several functions and be entered as a block, also recursively and in several threads. All of
    them are in one recording.

    Args:
        level (str): ``"modes"``, ``"graph"`` or ``"ops"``, as for :func:`probe`. Default: ``"graph"``.
        name (str, optional): Name of the probe in reports. Default: the function's name, or the line of the block.

    Raises:
        GradprobeError: ``level`` is unknown or ``name`` is empty.

    Example::

        probe = gradprobe.probe(name="serving")
        with probe:
            model(batch)
        print(probe.recording.regions)
    """

    def __init__(self, level: str = "graph", name: str | None = None, *, clock: Clock = SYSTEM) -> None:
        if name == "":
            raise GradprobeError("name must be a non-empty string or None, got ''")
        self._calls = _ProbedCalls(check_level(level), name, clock)
        self._open: list[tuple[int, int]] = []

    @property
    def recording(self) -> Recording:
        """Recording of all calls and blocks so far, which grows with each further one.

        Returns:
            Recording: the recording; it is never complete, as more calls may follow.

        Example::

            probe.recording.summary()
        """
        return self._calls.recording

    def __call__(self, function: F) -> F:
        return cast(F, self._calls.decorate(function))

    def __enter__(self) -> Probe:
        code, offset = find_caller(sys._getframe(1))
        if switch.on:
            place = offset if self._calls.name is None else (offset, self._calls.name)
            self._open.append((get_ident(), self._calls.begin(code, place)))
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        mine = [pair for pair in self._open if pair[0] == get_ident()]
        if mine:
            self._open.remove(mine[-1])
            self._calls.end(mine[-1][1], EXIT, exc_type)


class _ProbedCalls:
    """The calls of one probe, and the recording of them."""

    is_final = False

    def __init__(self, level: str, name: str | None, clock: Clock) -> None:
        self.name = name
        self.level = level
        self.clock = clock
        self._writer: Writer | None = None
        self._sink_number = 0
        self._process = 0
        self._call_numbers = itertools.count()

    @functools.cached_property
    def recording(self) -> Recording:
        return Recording(self)

    def decorate(self, function: Any) -> Any:
        if not callable(function) or isinstance(function, type):
            raise GradprobeError(
                f"cannot probe {function!r}: it is not a function, method or generator; decorate the methods of a class"
            )
        if DISABLED_AT_IMPORT:
            with contextlib.suppress(AttributeError, TypeError):
                function.recording = self.recording
            return function
        code = unwrap_code(function)
        name = _name_of(function) if self.name is None and code is None else self.name
        place = DECORATED if name is None else (DECORATED, name)
        probed = _ProbedFunction(self, function, code, place)
        observed: Any = around(function, probed.on_begin, probed.on_end, switch=switch, is_bypassed=is_tracing)
        observed.recording = self.recording
        return observed

    def begin(self, code: CodeType | None, place: int | tuple[int, str], key: int | None = None) -> int:
        """Begin a call, or resume the one with ``key``. Return the key."""
        session = get_session(self.clock)
        try:
            if self._writer is None or self._process != os.getpid():
                with session.lock:
                    self._ensure_writer(session)
            if key is None:
                key = self._sink_number << CALL_BITS | next(self._call_numbers)
            session.begin_call(self.level)
            session.emit(self._event(CALL | ENTER, code, place, key, session.tasks.label()))
        except Exception as error:
            session.fault(error)
        return key or 0

    def end(self, key: int, kind: int, error: type[BaseException] | None) -> None:
        """End the call with ``key``, or suspend it, as ``kind`` says."""
        session = get_session(self.clock)
        try:
            session.emit(self._event(CALL | kind, None, 0, key, error))
            session.end_call(self.level)
        except Exception as problem:
            session.fault(problem)

    def _event(self, op: int, code: CodeType | None, place: Any, key: int, extra: Any) -> tuple[Any, ...]:
        grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        now = self.clock.now()
        return (op, now, get_ident(), code, place, grad, inference, grad, inference, key, extra)

    def _ensure_writer(self, session: Session) -> Writer:
        if self._writer is not None and self._process == os.getpid():
            return self._writer
        writer = Writer(
            Store(None),
            session.tables,
            level=self.level,
            limit=DEFAULT_LIMIT,
            on_full=AGGREGATE,
        )
        writer.meta(
            environment=environment(self.level),
            limit=DEFAULT_LIMIT,
            began_wall_ns=self.clock.wall(),
            began_ns=self.clock.now(),
            only_calls=True,
        )
        self._sink_number, self._process = session.register(writer), os.getpid()
        self._writer = writer
        return writer

    def read(self) -> list[Contents]:
        """Return what all calls so far left behind, as a ``RecordingSource`` does."""
        session = get_session(self.clock)
        with session.lock:
            writer = self._ensure_writer(session)
            session.drain()
            contents = writer.store.read()
        return [dataclasses.replace(contents, meta={**contents.meta, "ended_ns": self.clock.now()})]


class _ProbedFunction:
    """The callbacks of one decorated function. A call's state is its key and the effects to be read."""

    def __init__(self, calls: _ProbedCalls, function: Any, code: CodeType | None, place: int | tuple[int, str]) -> None:
        self._calls, self._function, self._code, self._place = calls, function, code, place
        self._reads_effects = calls.level != "modes" and not is_resumable(function)

    def on_begin(
        self, state: tuple[int, CallEffects | None] | None, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[int, CallEffects | None]:
        """Begin a call, or resume the one of ``state``."""
        effects = None
        if self._reads_effects:
            try:
                effects = CallEffects(self._function, self._code, arguments, named)
            except Exception as error:
                get_session(self._calls.clock).fault(error)
        return self._calls.begin(self._code, self._place, None if state is None else state[0]), effects

    def on_end(
        self, state: tuple[int, CallEffects | None], error: BaseException | None, is_over: bool, result: Any
    ) -> None:
        """End or suspend the call of ``state``."""
        key, effects = state
        if error is not None:
            get_session(self._calls.clock).annotate_exception(error)
        self._calls.end(key, EXIT if is_over else SUSPEND, None if error is None else type(error))
        if effects is not None and error is None:
            session = get_session(self._calls.clock)
            try:
                session.emit_returned((key, *effects.finish(result)))
            except Exception as problem:
                session.fault(problem)


def _name_of(function: Any) -> str:
    """Return a name for a callable that has no Python code. Not its repr, which may contain an address."""
    inner = getattr(function, "func", function)  # functools.partial
    return str(getattr(inner, "__qualname__", type(inner).__qualname__))
