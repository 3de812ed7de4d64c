"""``@gradprobe.probe``: what the modes do inside one function or block, and nothing outside of it."""

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

from gradprobe._resumable import StepFunction, is_ended_by_stop, is_resumable, wrap_resumable
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
    """Records what happens to the modes in each call of a function, in the threads that call it.

    Decorates functions, methods, generator functions, ``async def`` and asynchronous generators, with or without
    brackets; ``with gradprobe.probe(name="evaluate") as p:`` does the same for a block. ``f.recording`` (``p.recording``)
    holds what all calls so far showed, and ``f.recording.summary()`` prints it. Of a generator or a coroutine only the
    steps of its own body count, not what runs while it waits.

    ``gradprobe.disable()`` makes it inert; in a process started with ``GRADPROBE=0`` the function is returned as it is.
    Raises ``GradprobeError`` for a level that does not exist, an empty name, and for what is not a function.
    """
    made = Probe(level, name)
    return made if function is None else made(function)


class Probe:
    """What ``probe()`` gives without a function: a decorator, and a context manager."""

    def __init__(self, level: str = "graph", name: str | None = None, *, clock: Clock = SYSTEM) -> None:
        if name == "":
            raise GradprobeError("the name of a probe is empty; give it one, or leave it out")
        self._watch = _Watch(check_level(level), name, clock)
        self._open: list[tuple[int, int]] = []

    @property
    def recording(self) -> Recording:
        """What was seen so far."""
        return self._watch.recording

    def __call__(self, function: F) -> F:
        return cast(F, self._watch.decorate(function))

    def __enter__(self) -> Probe:
        code, offset = find_caller(sys._getframe(1))
        if switch.on:
            place = offset if self._watch.name is None else (offset, self._watch.name)
            self._open.append((get_ident(), self._watch.begin(code, place)))
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        mine = [pair for pair in self._open if pair[0] == get_ident()]
        if mine:
            self._open.remove(mine[-1])
            self._watch.end(mine[-1][1], EXIT, exc_type)


class _Watch:
    """The calls of one probe, and what they left behind."""

    is_final = False

    def __init__(self, level: str, name: str | None, clock: Clock) -> None:
        self.name = name
        self._level = level
        self._clock = clock
        self._writer: Writer | None = None
        self._number = 0
        self._process = 0
        self._calls = itertools.count()

    @functools.cached_property
    def recording(self) -> Recording:
        return Recording(self)

    def decorate(self, function: Any) -> Any:
        if not callable(function) or isinstance(function, type):
            raise GradprobeError(
                f"probe decorates functions, methods and generators, not {function!r}; a class is probed by its methods"
            )
        if DISABLED_AT_IMPORT:
            with contextlib.suppress(AttributeError, TypeError):
                function.recording = self.recording
            return function
        code = unwrap_code(function)
        name = _name_of(function) if self.name is None and code is None else self.name
        place = DECORATED if name is None else (DECORATED, name)
        if is_resumable(function):
            watched: Any = wrap_resumable(function, lambda: self._stepper(code, place))
        else:
            watched = self._calling(function, code, place)
        watched.recording = self.recording
        return watched

    def _calling(self, function: Any, code: CodeType | None, place: int | tuple[int, str]) -> Any:
        begin, end = self.begin, self.end

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            # What torch.compile traces has no calls of its own to watch; it must find the bare function.
            if not switch.on or is_tracing():
                return function(*arguments, **named)
            account = self._account(function, code, arguments, named)
            key = begin(code, place)
            try:
                result = function(*arguments, **named)
            except BaseException as error:
                get_session(self._clock).annotate_exception(error)
                end(key, EXIT, type(error))
                raise
            end(key, EXIT, None)
            if account is not None:
                self._returned(key, account, result)
            return result

        return call

    def _account(
        self, function: Any, code: CodeType | None, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> CallEffects | None:
        if self._level == "modes":
            return None
        try:
            return CallEffects(function, code, arguments, named)
        except Exception as error:
            get_session(self._clock).fault(error)
            return None

    def _returned(self, key: int, account: CallEffects, result: Any) -> None:
        session = get_session(self._clock)
        try:
            session.emit_returned((key, *account.finish(result)))
        except Exception as error:
            session.fault(error)

    def _stepper(self, code: CodeType | None, place: int | tuple[int, str]) -> StepFunction:
        """The step function of one call: its first and each further step is watched, if probes are on at the time."""
        key: int | None = None

        def step(method: Callable[..., Any], *arguments: Any) -> Any:
            nonlocal key
            if not switch.on:
                return method(*arguments)
            key = self.begin(code, place, key)
            try:
                item = method(*arguments)
            except StopIteration:
                # The end of a generator or a coroutine, but of an asynchronous generator just the next item.
                self.end(key, EXIT if is_ended_by_stop(method) else SUSPEND, None)
                raise
            except BaseException as error:
                get_session(self._clock).annotate_exception(error)
                self.end(key, EXIT, None if isinstance(error, StopAsyncIteration) else type(error))
                raise
            self.end(key, EXIT if method.__name__ == "close" else SUSPEND, None)
            return item

        return step

    def begin(self, code: CodeType | None, place: int | tuple[int, str], key: int | None = None) -> int:
        """A call begins, or that of ``key`` goes on. Gives its key."""
        session = get_session(self._clock)
        try:
            if self._writer is None or self._process != os.getpid():
                with session.lock:
                    self._ensure_writer(session)
            if key is None:
                key = self._number << CALL_BITS | next(self._calls)
            session.begin_call(self._level)
            session.emit(self._event(CALL | ENTER, code, place, key, session.tasks.label()))
        except Exception as error:
            session.fault(error)
        return key or 0

    def end(self, key: int, kind: int, error: type[BaseException] | None) -> None:
        """The call of ``key`` ends, or waits."""
        session = get_session(self._clock)
        try:
            session.emit(self._event(CALL | kind, None, 0, key, error))
            session.end_call(self._level)
        except Exception as problem:
            session.fault(problem)

    def _event(self, op: int, code: CodeType | None, place: Any, key: int, extra: Any) -> tuple[Any, ...]:
        grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        now = self._clock.now()
        return (op, now, get_ident(), code, place, grad, inference, grad, inference, key, extra)

    def _ensure_writer(self, session: Session) -> Writer:
        if self._writer is not None and self._process == os.getpid():
            return self._writer
        writer = Writer(
            Store(None),
            session.tables,
            level=self._level,
            limit=DEFAULT_LIMIT,
            on_full=AGGREGATE,
        )
        writer.meta(
            environment=environment(self._level),
            limit=DEFAULT_LIMIT,
            began_wall_ns=self._clock.wall(),
            began_ns=self._clock.now(),
            only_calls=True,
        )
        self._number, self._process = session.register(writer), os.getpid()
        self._writer = writer
        return writer

    def read(self) -> list[Contents]:
        """Return what all calls so far left behind, as a ``RecordingSource`` does."""
        session = get_session(self._clock)
        with session.lock:
            writer = self._ensure_writer(session)
            session.drain()
            contents = writer.store.read()
        return [dataclasses.replace(contents, meta={**contents.meta, "ended_ns": self._clock.now()})]


def _name_of(function: Any) -> str:
    """What a callable that is not written in Python, or no function, goes by. No repr: that may tell its address."""
    inner = getattr(function, "func", function)  # functools.partial
    return str(getattr(inner, "__qualname__", type(inner).__qualname__))
