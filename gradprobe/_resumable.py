"""Decoration of functions of any kind, including those that are resumed and suspended many times.

Those are generators, coroutines and asynchronous generators. ``wrap_resumable`` builds a function of the same kind that
passes each step, from resumption to suspension, through a function of the caller: there a mode is entered that must be
active while the body runs and not while it waits. ``around`` calls back at the begin and the end of calls and steps.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, Protocol

from gradprobe._matching_wrappers import build_wrapper

StepFunction = Callable[..., Any]
"""Callable as ``step(method, *arguments)`` that runs ``method(*arguments)`` and returns its result."""

BeginFunction = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
EndFunction = Callable[[Any, "BaseException | None", bool, Any], object]


class Switch(Protocol):
    """An object whose attribute ``on`` is read at each call and step."""

    on: bool


def is_resumable(func: object) -> bool:
    """Return whether calling ``func`` only creates an object whose body runs later."""
    return inspect.isgeneratorfunction(func) or is_async_function(func)


def is_async_function(func: object) -> bool:
    """Return whether ``func`` is an ``async def``."""
    return inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func)


def is_ended_by_stop(method: Any) -> bool:
    """Return whether ``StopIteration`` out of ``method`` ends the body.

    Out of an asynchronous generator's methods it only carries the next item.
    """
    return type(getattr(method, "__self__", None)).__name__ in ("generator", "coroutine")


def wrap_resumable(func: Callable[..., Any], step_for_call: Callable[[], StepFunction]) -> Callable[..., Any]:
    """Wrap ``func`` so that each step goes through the function that ``step_for_call`` returns per call."""
    if inspect.isasyncgenfunction(func):
        return _wrap("async generator", func, lambda body: _AsyncGeneratorRun(body, step_for_call()))
    if inspect.iscoroutinefunction(func):
        return _wrap("coroutine", func, lambda body: _await_steps(body, step_for_call()))
    generator = _wrap("generator", func, lambda body: _run_steps(body, step_for_call()))
    is_awaitable = getattr(getattr(func, "__code__", None), "co_flags", 0) & inspect.CO_ITERABLE_COROUTINE
    return types.coroutine(generator) if is_awaitable else generator


def _wrap(kind: str, func: Callable[..., Any], run: Callable[[Any], Any]) -> Callable[..., Any]:
    return build_wrapper(kind, func, lambda *arguments, **named: run(func(*arguments, **named)))


def around(
    function: Callable[..., Any],
    on_begin: BeginFunction,
    on_end: EndFunction,
    *,
    switch: Switch,
    is_bypassed: Callable[[], bool],
) -> Callable[..., Any]:
    """Wrap ``function``, of any kind, with callbacks at the begin and the end of its calls and steps.

    Args:
        function: The function, method, generator function, ``async def`` or asynchronous generator function.
        on_begin: Called as ``on_begin(state, arguments, named)`` before a call or step. ``state`` is None at the begin of a
            call, and the last result of ``on_begin`` when a call is resumed. Arguments are passed for plain functions only.
        on_end: Called as ``on_end(state, error, is_over, result)`` after a call or step. ``is_over`` is false if the body
            is suspended. The exceptions that end every generator or coroutine are not passed as ``error``.
        switch: Calls and steps run without callbacks while its ``on`` is false.
        is_bypassed: Plain calls run without callbacks if it returns true.

    Returns:
        A function of the same kind. The callbacks must not raise.
    """
    if is_resumable(function):
        return wrap_resumable(function, lambda: _make_observed_step(on_begin, on_end, switch))

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        if not switch.on or is_bypassed():
            return function(*arguments, **named)
        state = on_begin(None, arguments, named)
        try:
            result = function(*arguments, **named)
        except BaseException as error:
            on_end(state, error, True, None)
            raise
        on_end(state, None, True, result)
        return result

    return call


def _make_observed_step(on_begin: BeginFunction, on_end: EndFunction, switch: Switch) -> StepFunction:
    """Build the step function of one call, whose steps are observed while ``switch`` is on."""
    state: Any = None

    def step(method: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal state
        if not switch.on:
            return method(*arguments)
        state = on_begin(state, (), {})
        try:
            item = method(*arguments)
        except StopIteration:
            on_end(state, None, is_ended_by_stop(method), None)
            raise
        except BaseException as error:
            on_end(state, None if isinstance(error, StopAsyncIteration) else error, True, None)
            raise
        on_end(state, None, method.__name__ == "close", None)
        return item

    return step


def _run_steps(body: Any, step: StepFunction) -> Generator[Any, Any, Any]:
    """Run ``body``, an object with ``send``, ``throw`` and ``close``, to its end."""
    resume, message = body.send, None
    try:
        while True:
            handed = [step(resume, message)]
            del message  # while the body waits, nothing of it is kept here but what it keeps itself
            try:
                resume, message = body.send, (yield handed.pop())
            except GeneratorExit:
                step(body.close)
                raise
            except BaseException as error:
                resume, message = body.throw, error
    except StopIteration as end:
        return end.value


@types.coroutine
def _await_steps(body: Any, step: StepFunction) -> Generator[Any, Any, Any]:
    return (yield from _run_steps(body, step))


class _AsyncGeneratorRun:
    """A run of an asynchronous generator, whose steps go through a function."""

    def __init__(self, body: AsyncGenerator[Any, Any], step: StepFunction) -> None:
        self._body, self._step = body, step
        self._resume: Any = body.asend(None)
        self._items: list[Any] = []

    async def resume(self) -> bool:
        """Run to the next item, and return whether there is one."""
        resume, self._resume = self._resume, None
        try:
            self._items.append(await _await_steps(resume, self._step))
        except StopAsyncIteration:
            return False
        return True

    def take(self) -> Any:
        """Return the item, and keep nothing of it."""
        return self._items.pop()

    def send(self, value: Any) -> None:
        """Resume with a value that the consumer sends."""
        self._resume = self._body.asend(value)

    def throw(self, error: BaseException) -> None:
        """Resume with an exception that the consumer throws."""
        self._resume = self._body.athrow(error)

    async def close(self) -> None:
        """Close the body."""
        await _await_steps(self._body.aclose(), self._step)
