"""Where code is running: the thread, the asyncio task, and the line of the user's program that a hook was reached from."""

from __future__ import annotations

import asyncio.events
import contextlib
import functools
import inspect
import sys
import threading
import weakref
from _thread import get_ident
from asyncio import current_task
from collections import Counter
from collections.abc import Callable, Hashable
from types import CodeType, FrameType
from typing import Any

import torch
import torch.utils._contextlib as torch_contextlib

from gradprobe.capture.patching.patches import Patch
from gradprobe.recording.events import DECORATED, ENTER, EXIT, GENERATOR, NOT_READ, THREAD, Event

# Whether torch.compile is tracing the code that asks.
is_tracing: Callable[[], bool] = getattr(torch.compiler, "is_dynamo_compiling", torch.compiler.is_compiling)

GRAD_MODE_FILE: str = torch.autograd.grad_mode.__file__


def _inner_code(function: Any, name: str) -> CodeType:
    """The code of the function called ``name`` that ``function`` defines in its body."""
    return next(c for c in function.__code__.co_consts if isinstance(c, CodeType) and c.co_name == name)


DECORATOR_CODE = _inner_code(torch_contextlib.context_decorator, "decorate_context")
GENERATOR_CODE = _inner_code(torch_contextlib._wrap_generator, "generator_context")
EXIT_STACK_CODE: CodeType = contextlib.ExitStack.enter_context.__code__
CLONE_CODE: CodeType = torch.set_grad_enabled.clone.__code__


def clone_set_grad_enabled(self: torch.set_grad_enabled) -> torch.set_grad_enabled:
    """``clone`` of the drop-in ``set_grad_enabled``: an object of PyTorch's own class, which ``torch.compile`` knows."""
    return torch.set_grad_enabled(self.mode)


DROP_IN_CLONE_CODE: CodeType = clone_set_grad_enabled.__code__

# Wrappers whose variable `func` is the decorated function, and what a place in it counts as.
# By identity: a code object's own hash goes through all its constants.
decorator_forms: dict[int, int] = {id(DECORATOR_CODE): DECORATED, id(GENERATOR_CODE): GENERATOR}
# Files whose frames stand between the user's line and a manager, and are no place of their own.
indirect_files: set[str] = {torch_contextlib.__file__, contextlib.__file__, GRAD_MODE_FILE, __file__}


def find_caller(frame: FrameType | None) -> tuple[CodeType | None, int]:
    """The user's place behind ``frame``: code and offset of an instruction, or a function and how it is decorated."""
    while frame is not None:
        code = frame.f_code
        offset = decorator_forms.get(id(code))
        if offset is not None:
            decorated = _code_once(frame.f_locals.get("func"))
            if decorated is not None:
                return decorated, offset
        elif code.co_filename not in indirect_files:
            return code, frame.f_lasti
        frame = frame.f_back
    return None, 0


# Unwrapping a function takes longer than all else a hook does. The reference tells whether an address is still its own.
_known_codes: dict[int, tuple[weakref.ref[Any], CodeType | None]] = {}


def _code_once(function: Any) -> CodeType | None:
    known = _known_codes.get(id(function))
    if known is not None and known[0]() is function:
        return known[1]
    code = unwrap_code(function)
    with contextlib.suppress(TypeError):
        key = id(function)
        _known_codes[key] = (weakref.ref(function, lambda _: _known_codes.pop(key, None)), code)
    return code


def unwrap_code(function: Any) -> CodeType | None:
    """The code of the function behind ``function`` and its wrappers; None for what is not written in Python."""
    with contextlib.suppress(ValueError):
        function = inspect.unwrap(function)
    function = getattr(function, "func", function)  # functools.partial
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code if isinstance(code, CodeType) else None


def thread_patches(
    emit: Callable[[Event], object],
    now: Callable[[], int],
    begins: Callable[[threading.Thread], object],
    ends: Callable[[threading.Thread, object], None],
    fault: Callable[[Exception], None],
    is_live: Callable[[], bool],
) -> list[Patch]:
    """Reports each thread that Python starts while ``is_live``, at its beginning and its end, and has it call ``begins``
    and ``ends``, the latter with what the former returned.

    Identifiers of threads are reused as soon as one has ended, so without these marks two threads would become one.
    """
    original = getattr(threading.Thread, "_bootstrap_inner", None)
    if original is None:
        return []

    @functools.wraps(original)
    def bootstrap(self: threading.Thread) -> None:
        if not is_live():
            original(self)
            return
        ident, begun = get_ident(), None
        try:
            emit((THREAD | ENTER, now(), ident, None, 0, True, False, True, False, 0, self.name))
            begun = begins(self)
        except Exception as error:  # who started this thread waits until it runs
            fault(error)
        try:
            original(self)
        finally:
            try:
                ends(self, begun)
                emit((THREAD | EXIT, now(), ident, None, 0, NOT_READ, NOT_READ, NOT_READ, NOT_READ, 0, None))
            except Exception as error:
                fault(error)

    return [Patch(threading.Thread, "_bootstrap_inner", bootstrap)]


def thread_name(ident: int) -> str:
    """The name of the thread with this identifier, if Python knows it; it adds no entry for one that it does not know."""
    known = threading._active.get(ident)  # type: ignore[attr-defined]
    return known.name if known is not None else f"thread {ident}"


def live_threads() -> dict[int, str]:
    """The names of the threads that run Python code now, by identifier."""
    return {ident: thread_name(ident) for ident in sys._current_frames()}


def loop_patches(loop_starts: Callable[[], None], fault: Callable[[Exception], None]) -> list[Patch]:
    """Calls ``loop_starts`` whenever an event loop of asyncio begins to run in any thread."""
    events: Any = asyncio.events
    original = getattr(events, "_set_running_loop", None)
    if original is None:
        loop_starts()
        return []

    @functools.wraps(original)
    def set_running_loop(loop: Any) -> None:
        original(loop)
        try:
            loop_starts()
        except Exception as error:  # who starts a loop, or ends it, waits for this
            fault(error)

    return [Patch(events, "_set_running_loop", set_running_loop)]


def may_have_event_loops() -> bool:
    """Whether an event loop may be running in some thread, or start without passing through asyncio's Python code."""
    return getattr(asyncio.events, "_event_loop_policy", True) is not None or "uvloop" in sys.modules


_NAMES = 100_000
"""Names of tasks that are told apart by numbers; of those before that many, one may come without a number again."""


class TaskLabels:
    """Labels for asyncio tasks: their names, with a number where two tasks share one. Keeps no task alive."""

    def __init__(self) -> None:
        self._labels: weakref.WeakKeyDictionary[Hashable, str] = weakref.WeakKeyDictionary()
        self._uses: Counter[str] = Counter()

    def label(self) -> str | None:
        """The label of the task that runs in this thread; None outside of tasks."""
        loop = asyncio.events._get_running_loop()
        task = None if loop is None else current_task(loop)
        if task is None:
            return None
        known = self._labels.get(task)
        if known is None:
            name = task.get_name()
            if len(self._uses) > _NAMES:
                self._uses.clear()
            self._uses[name] += 1
            known = name if self._uses[name] == 1 else f"{name} #{self._uses[name]}"
            self._labels[task] = known
        return known
