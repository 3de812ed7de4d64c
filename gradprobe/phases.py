"""``gradprobe.phase``: names for the phases of a program, such as warm-up, capture, serving and training.

Phases belong to a thread, and to an asyncio task if one runs: what another thread or task does meanwhile is not in them.
This module keeps the phases that are open whether or not anything records, because a recording may begin inside of one.
It imports neither torch nor asyncio: a program may name its phases without being recorded.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import weakref
from _thread import _local, get_ident
from collections.abc import Callable
from types import CodeType, FrameType, TracebackType
from typing import Any, TypeVar, cast

from gradprobe._resumable import around
from gradprobe._switch import switch
from gradprobe.errors import GradprobeError, InvalidArgument

F = TypeVar("F", bound=Callable[..., Any])

MAX_NAME = 200
"""Maximum number of characters of a name."""

AFTER_BACKWARD, CAPTURE, COMPILATION = "after backward", "graph capture", "compilation"
SAVE, LOAD, IMPORT, CONSTRUCTION = "save", "load", "import", "construction"
"""Names of the phases that gradprobe finds."""

_DECORATED = -1
"""Offset of a place that is a decorated function as a whole, as in ``recording.events``."""
_INDIRECT_FILES = frozenset({__file__, contextlib.__file__})


class OpenPhase:
    """One run of a phase, from its beginning to its end, in one thread and task.

    Attributes:
        name: Name of the phase.
        key: Number of this run in this process.
        thread: Identifier of the thread.
        code: Code object of the line that began it, with ``offset`` the instruction; None if gradprobe began it.
        is_automatic: True if gradprobe began it, and not the program.
    """

    __slots__ = ("_around", "_task", "code", "is_automatic", "key", "name", "offset", "thread")

    def __init__(self, name: str, code: CodeType | None, offset: int, *, is_automatic: bool = False) -> None:
        self.name, self.key, self.thread = name, next(_keys), get_ident()
        self.code, self.offset, self.is_automatic = code, offset, is_automatic
        task = _current_task()
        self._task = None if task is None else weakref.ref(task)
        self._around: list[OpenPhase] = _open.phases

    def open(self) -> None:
        """Add it to the open phases of its thread."""
        self._around.append(self)
        _running[self.key] = self

    def close(self) -> None:
        """Remove it from the open phases of its thread, from whichever thread this is called in."""
        if _running.pop(self.key, None) is not None:
            self._around.remove(self)

    def is_of(self, task: Any) -> bool:
        """Return whether the phase is one of ``task``, or of the thread that runs it."""
        return self._task is None or self._task() is task


Listener = Callable[[OpenPhase, bool], object]
"""Callable as ``listener(phase, begins)``."""


class _OpenPhases(_local):
    """Open phases of a thread, the innermost last."""

    def __init__(self) -> None:
        self.phases: list[OpenPhase] = []


_open = _OpenPhases()
_keys = itertools.count(1)
_running: dict[int, OpenPhase] = {}
"""Open phases of all threads by their number."""
_listeners: list[Listener] = []


def connect(listener: Listener) -> None:
    """Call ``listener`` at each begin and end of a phase from now on."""
    if listener not in _listeners:
        _listeners.append(listener)


def disconnect(listener: Listener) -> None:
    """Undo ``connect``."""
    if listener in _listeners:
        _listeners.remove(listener)


def list_open() -> list[OpenPhase]:
    """Return the phases that are open in any thread, the outer ones first."""
    threads = set(sys._current_frames())  # a thread may have ended in a phase, or belong to the process that was forked
    return [phase for phase in list(_running.values()) if phase.thread in threads]


def current_phase() -> str:
    """Return the name of the phase of the calling thread and task, an empty string if there is none.

    A phase that the program names comes before one that gradprobe found.
    """
    phases = _open.phases
    if not phases:
        return ""
    task = _current_task()
    mine = [phase for phase in reversed(phases) if phase.is_of(task)]
    return min(mine, key=lambda phase: phase.is_automatic).name if mine else ""


def begin(phase: OpenPhase) -> OpenPhase:
    """Open ``phase`` in the calling thread."""
    phase.open()
    for listener in tuple(_listeners):
        listener(phase, True)
    return phase


def end(phase: OpenPhase) -> None:
    """Close ``phase``, in the thread that opened it or in another one."""
    for listener in tuple(_listeners):
        listener(phase, False)
    phase.close()


class phase:  # noqa: N801
    """Name a phase of the program, as a block, as a decorator, or from ``start()`` to ``stop()``.

    The recordings that are open show in which phase each block ran, each tensor was created and each mistake was made.
    Phases nest, and belong to the thread and the asyncio task that they begin in. Without a recording, a phase costs a
    few hundred nanoseconds and imports nothing. A decorated generator or coroutine is in the phase while its body runs,
    not while it waits. ``torch.compile`` does not see phases.

    Args:
        name (str): Name of the phase in tables, reports and traces, such as ``"warmup"`` or ``"serve"``: a printable
            string of up to 200 characters.

    Raises:
        InvalidArgument: ``name`` is not such a string.

    Example::

        with gradprobe.phase("warmup"):
            engine.run(example)

        @gradprobe.phase("serve")
        async def answer(request):
            return engine.run(request)

        validation = gradprobe.phase("validate")  # in the callbacks of a framework
        validation.start()
        validation.stop()
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > MAX_NAME:
            shown = repr(name) if len(repr(name)) <= MAX_NAME else f"{repr(name)[:MAX_NAME]}..."
            raise InvalidArgument(f"name must be a printable string of 1 to {MAX_NAME} characters, got {shown}")
        self._name = name
        self._running: list[OpenPhase | None] = []

    @property
    def name(self) -> str:
        """Name of the phase.

        Returns:
            str: the name that the phase was constructed with.

        Example::

            assert gradprobe.phase("serve").name == "serve"
        """
        return self._name

    def start(self) -> phase:
        """Begin the phase in the calling thread, until ``stop()``.

        Returns:
            phase: this object.

        Example::

            warmup = gradprobe.phase("warmup").start()
        """
        if not _is_traced():
            self._begin(sys._getframe(1))
        return self

    def stop(self) -> None:
        """End what ``start()`` began last, in the calling thread if it began there.

        Raises:
            GradprobeError: the phase is not running.

        Example::

            warmup.stop()
        """
        if _is_traced():
            return
        if not self._running:
            raise GradprobeError(f"cannot stop the phase {self._name!r}: it is not running; call start() first")
        self._end()

    def __enter__(self) -> phase:
        if not _is_traced():
            self._begin(sys._getframe(1))
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not _is_traced() and self._running:
            self._end()

    def __call__(self, function: F) -> F:
        if not callable(function) or isinstance(function, type | staticmethod):
            raise GradprobeError(
                f"cannot decorate {function!r}: it is not a function, method or generator; "
                "decorate the methods of a class, below `@staticmethod`"
            )
        code = getattr(function, "__code__", None)

        def on_begin(*_: Any) -> OpenPhase:
            return begin(OpenPhase(self._name, code, _DECORATED))

        def on_end(opened: OpenPhase, *_: Any) -> None:
            end(opened)

        return cast(F, around(function, on_begin, on_end, switch=switch, is_bypassed=_is_traced))

    def _begin(self, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code.co_filename in _INDIRECT_FILES:
            frame = frame.f_back
        place = (None, 0) if frame is None else (frame.f_code, frame.f_lasti)
        self._running.append(begin(OpenPhase(self._name, *place)) if switch.on else None)

    def _end(self) -> None:
        ident = get_ident()
        opened = next((p for p in reversed(self._running) if p is not None and p.thread == ident), self._running[-1])
        self._running.remove(opened)
        if opened is not None:
            end(opened)


def _current_task() -> Any:
    """Return the asyncio task that runs in this thread; None outside of tasks."""
    events = sys.modules.get("asyncio.events")
    loop = None if events is None else events._get_running_loop()
    return None if loop is None else sys.modules["asyncio.tasks"].current_task(loop)


def _is_traced() -> bool:
    """Return whether ``torch.compile`` is tracing the calling code."""
    torch = sys.modules.get("torch")
    compiler = getattr(torch, "compiler", None)  # absent while torch is being imported
    return compiler is not None and bool(compiler.is_compiling())
