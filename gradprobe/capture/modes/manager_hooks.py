"""Replacements for the methods of PyTorch's grad-mode context managers while recording.

The classes stay the same objects, since ``torch.compile`` knows them by identity; only their methods are replaced. A
replacement does the same as PyTorch's own method, by the same calls into ``torch._C`` in the same order, and then emits
one event. Reimplementing the method is cheaper than calling the original: PyTorch's ``no_grad`` builds a
``set_grad_enabled`` object twice per block. If the original is not the method that this file knows, because of another
tool or another version of PyTorch, the replacement calls it and compares the modes before and after.

Everything a hook needs is a local variable of ``build_hooks``, which is Python's cheapest look-up.
"""

from __future__ import annotations

import functools
from _thread import get_ident as thread
from collections.abc import Callable
from dataclasses import dataclass
from sys import _getframe
from types import CodeType, FrameType, FunctionType
from typing import Any

import torch

from gradprobe.capture.location.callers import (
    CLONE_CODE,
    DECORATOR_CODE,
    EXIT_STACK_CODE,
    GENERATOR_CODE,
    GRAD_MODE_FILE,
    find_caller,
)
from gradprobe.capture.location.tasks import TaskLabels
from gradprobe.capture.modes.drop_in_clone import DROP_IN_CLONE_CODE
from gradprobe.capture.patching.patches import Patch
from gradprobe.recording.events import (
    ACTION_MASK,
    CONSTRUCT,
    DECORATE,
    ENABLE_GRAD,
    ENTER,
    EXIT,
    INFERENCE_MODE,
    NO_GRAD,
    NOT_READ,
    SET_GRAD_ENABLED,
    Event,
)

Emit = Callable[[Event], object]


@dataclass(frozen=True)
class ManagerHooks:
    """The replacements, and functions that change their behaviour while they are in place."""

    patches: list[Patch]
    originals: list[Any]
    redirect: Callable[[Emit], None]
    enable_task_labels: Callable[[], None]
    set_quiet: Callable[[dict[int, CodeType], dict[int, CodeType], bool], None]
    """Set the code objects, by identity, whose events ``examine`` need not see, and those of which it need not see even
    the calls of ``set_grad_enabled`` that change the mode."""

    def are_current(self) -> bool:
        """Return whether the methods to replace are still those that the hooks were built for."""
        return all(getattr(p.owner, p.name) is o for p, o in zip(self.patches, self.originals, strict=True))


# The names used by the methods that are reimplemented here; any other method is wrapped.
KNOWN_METHODS = {
    (torch.no_grad, "__enter__"): ("torch", "is_grad_enabled", "prev", "set_grad_enabled"),
    (torch.no_grad, "__exit__"): ("torch", "set_grad_enabled", "prev"),
    (torch.enable_grad, "__enter__"): ("torch", "is_grad_enabled", "prev", "_C", "_set_grad_enabled"),
    (torch.enable_grad, "__exit__"): ("torch", "_C", "_set_grad_enabled", "prev"),
    (torch.set_grad_enabled, "__init__"): ("torch", "is_grad_enabled", "prev", "mode", "_C", "_set_grad_enabled"),
    (torch.set_grad_enabled, "__enter__"): ("torch", "_C", "_set_grad_enabled", "mode"),
    (torch.set_grad_enabled, "__exit__"): ("torch", "_C", "_set_grad_enabled", "prev"),
    (torch.inference_mode, "__enter__"): (
        "torch",
        "_C",
        "_InferenceMode",
        "mode",
        "_inference_mode_context",
        "__enter__",
    ),
    (torch.inference_mode, "__exit__"): ("_inference_mode_context", "__exit__"),
}


def is_known_method(owner: type, name: str) -> bool:
    """Return whether ``owner.name`` is the method that this file reimplements."""
    method = vars(owner).get(name)
    return (
        isinstance(method, FunctionType)
        and method.__code__.co_filename == GRAD_MODE_FILE
        and method.__code__.co_names == KNOWN_METHODS.get((owner, name))
    )


def build_hooks(
    emit: Emit, examine: Emit, now: Callable[[], int], tasks: TaskLabels, fault: Callable[[Exception], None]
) -> ManagerHooks:
    """Build hooks for the four context managers.

    Args:
        emit: Called once per event.
        examine: Called before it with the events of code that is not quiet.
        now: The clock, in nanoseconds.
        tasks: The labels of asyncio tasks.
        fault: Receives gradprobe's own errors.
    """
    label = tasks.label
    is_grad, is_inference = torch.is_grad_enabled, torch.is_inference_mode_enabled
    # `bindings._set_grad_enabled` is looked up at each call, as in PyTorch's methods: another tool may have replaced it.
    bindings = torch._C
    by_decorator, by_generator, by_stack, by_clone = DECORATOR_CODE, GENERATOR_CODE, EXIT_STACK_CODE, CLONE_CODE
    by_drop_in_clone = DROP_IN_CLONE_CODE
    tasks_run = False
    quiet: dict[int, CodeType] = {}
    silent: dict[int, CodeType] = {}

    is_open = False

    def set_quiet(codes: dict[int, CodeType], silent_codes: dict[int, CodeType], has_open: bool) -> None:
        nonlocal quiet, silent, is_open
        quiet, silent, is_open = codes, silent_codes, has_open

    def redirect(other: Emit) -> None:
        nonlocal emit
        emit = other

    def enable_task_labels() -> None:
        nonlocal tasks_run
        tasks_run = True

    def grad_enter(op: int, mode: bool) -> Callable[..., None]:
        def __enter__(self: Any) -> None:  # noqa: N807
            self.prev = grad = is_grad()
            bindings._set_grad_enabled(mode)
            try:
                frame = _getframe(1)
                code: CodeType | None = frame.f_code
                offset = frame.f_lasti
                if code is by_decorator or code is by_generator or code is by_stack:
                    code, offset = find_caller(frame)
                task = label() if tasks_run else None
                event = (op, now(), thread(), code, offset, grad, is_inference(), mode, NOT_READ, id(self), task)
                if id(code) not in quiet:
                    examine(event)
                emit(event)
            except Exception as error:
                fault(error)

        return __enter__

    def grad_exit(op: int) -> Callable[..., None]:
        def __exit__(self: Any, exc_type: Any, exc_value: Any, traceback: Any) -> None:  # noqa: N807
            grad, mode = is_grad(), self.prev
            bindings._set_grad_enabled(mode)
            try:
                frame = _getframe(1)
                code, offset = frame.f_code, frame.f_lasti
                event = (op, now(), thread(), code, offset, grad, NOT_READ, mode, NOT_READ, id(self), exc_type)
                if id(code) not in quiet:
                    examine(event)
                emit(event)
            except Exception as error:
                fault(error)

        return __exit__

    def set_init(self: Any, mode: bool) -> None:
        self.prev = grad = is_grad()
        self.mode = mode
        bindings._set_grad_enabled(mode)
        try:
            frame = _getframe(1)
            code: CodeType | None = frame.f_code
            offset = frame.f_lasti
            if code is by_clone or code is by_drop_in_clone:
                code, offset = find_caller(frame)
            task = label() if tasks_run else None
            event = (_SET_INIT, now(), thread(), code, offset, grad, is_inference(), mode, NOT_READ, id(self), task)
            # An alias hides from the code's names what it calls. Enabling grad can only end a change that is open.
            if (is_open or not mode) and id(code) not in silent and (grad != mode or id(code) not in quiet):
                examine(event)
            emit(event)
        except Exception as error:
            fault(error)

    def set_enter(self: Any) -> None:
        grad, mode = is_grad(), self.mode
        bindings._set_grad_enabled(mode)
        try:
            frame = _getframe(1)
            code: CodeType | None = frame.f_code
            offset = frame.f_lasti
            if code is by_stack:  # a decorator constructs an object for each call, and that event has the place
                code, offset = find_caller(frame)
            task = label() if tasks_run else None
            event = (_SET_ENTER, now(), thread(), code, offset, grad, is_inference(), mode, NOT_READ, id(self), task)
            if id(code) not in quiet:
                examine(event)
            emit(event)
        except Exception as error:
            fault(error)

    def inference_enter(self: Any) -> None:
        grad, inference, mode = is_grad(), is_inference(), self.mode
        # The guard acts when it is constructed; its `__enter__` does nothing. See `_is_guard_active_on_construction`.
        self._inference_mode_context = bindings._InferenceMode(mode)
        try:
            frame = _getframe(1)
            code: CodeType | None = frame.f_code
            offset = frame.f_lasti
            if code is by_decorator or code is by_generator or code is by_stack:
                code, offset = find_caller(frame)
            task = label() if tasks_run else None
            event = (_INFERENCE_ENTER, now(), thread(), code, offset, grad, inference, not mode, mode, id(self), task)
            if id(code) not in quiet:
                examine(event)
            emit(event)
        except Exception as error:
            fault(error)

    def inference_exit(self: Any, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        grad, inference = is_grad(), is_inference()
        self._inference_mode_context.__exit__(exc_type, exc_value, traceback)
        try:
            frame = _getframe(1)
            code, offset = frame.f_code, frame.f_lasti
            unread = NOT_READ
            event = (
                _INFERENCE_EXIT,
                now(),
                thread(),
                code,
                offset,
                grad,
                inference,
                unread,
                unread,
                id(self),
                exc_type,
            )
            if id(code) not in quiet:
                examine(event)
            emit(event)
        except Exception as error:
            fault(error)

    def wrap_original(op: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Any, *arguments: Any, **named: Any) -> Any:
            grad, inference = is_grad(), is_inference()
            result = original(self, *arguments, **named)
            try:
                frame = _getframe(1)
                if op & ACTION_MASK == CONSTRUCT and _is_manager_method(frame):
                    return result
                code, offset = find_caller(frame)
                task = label() if tasks_run else None
                extra = (arguments[0] if arguments else None) if op & ACTION_MASK == EXIT else task
                event = (op, now(), thread(), code, offset, grad, inference, is_grad(), is_inference(), id(self), extra)
                examine(event)
                emit(event)
            except Exception as error:
                fault(error)
            return result

        return method

    reproduced = {
        (torch.no_grad, "__enter__"): (NO_GRAD | ENTER, grad_enter(NO_GRAD | ENTER, False)),
        (torch.no_grad, "__exit__"): (NO_GRAD | EXIT, grad_exit(NO_GRAD | EXIT)),
        (torch.enable_grad, "__enter__"): (ENABLE_GRAD | ENTER, grad_enter(ENABLE_GRAD | ENTER, True)),
        (torch.enable_grad, "__exit__"): (ENABLE_GRAD | EXIT, grad_exit(ENABLE_GRAD | EXIT)),
        (torch.set_grad_enabled, "__init__"): (_SET_INIT, set_init),
        (torch.set_grad_enabled, "__call__"): (SET_GRAD_ENABLED | DECORATE, None),
        (torch.set_grad_enabled, "__enter__"): (_SET_ENTER, set_enter),
        (torch.set_grad_enabled, "__exit__"): (SET_GRAD_ENABLED | EXIT, grad_exit(SET_GRAD_ENABLED | EXIT)),
        (torch.inference_mode, "__enter__"): (_INFERENCE_ENTER, inference_enter),
        (torch.inference_mode, "__exit__"): (_INFERENCE_EXIT, inference_exit),
    }
    patches = []
    all_known = (
        all(is_known_method(owner, name) for owner, name in KNOWN_METHODS) and _is_guard_active_on_construction()
    )
    for (owner, name), (op, hook) in reproduced.items():
        original = getattr(owner, name)
        if hook is None or not all_known:
            hook = wrap_original(op, original)
        # TorchScript compiles the source that it finds through `__wrapped__`, which must be PyTorch's.
        patches.append(Patch(owner, name, functools.wraps(original)(hook)))
    originals = [getattr(patch.owner, patch.name) for patch in patches]
    return ManagerHooks(patches, originals, redirect, enable_task_labels, set_quiet)


@functools.cache
def _is_guard_active_on_construction() -> bool:
    """Return whether constructing PyTorch's guard, rather than entering it, enters inference mode."""
    guard = torch._C._InferenceMode(True)
    try:
        return torch.is_inference_mode_enabled()
    finally:
        guard.__exit__(None, None, None)


def _is_manager_method(frame: FrameType) -> bool:
    """Return whether ``frame`` is in a context manager that constructs another, as ``no_grad`` does."""
    return frame.f_code.co_filename == GRAD_MODE_FILE and frame.f_code.co_name in ("__enter__", "__exit__")


_SET_INIT, _SET_ENTER = SET_GRAD_ENABLED | CONSTRUCT, SET_GRAD_ENABLED | ENTER
_INFERENCE_ENTER, _INFERENCE_EXIT = INFERENCE_MODE | ENTER, INFERENCE_MODE | EXIT
