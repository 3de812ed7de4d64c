"""Functions that run in steps: generators, coroutines and asynchronous generators, resumed and suspended many times.

``wrap`` gives a function of the same kind, each step of which goes through a function of the caller's: a mode that holds
while the body runs and not while it waits is entered there, and a probe counts there.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

StepFunction = Callable[..., Any]
"""Called as ``step(method, *arguments)``; runs ``method(*arguments)`` and gives what it gives."""


def is_resumable(func: object) -> bool:
    """Whether calling ``func`` only makes something whose body runs later."""
    return inspect.isgeneratorfunction(func) or is_async_function(func)


def is_async_function(func: object) -> bool:
    """Whether ``func`` is an ``async def``."""
    return inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func)


def is_ended_by_stop(method: Any) -> bool:
    """Whether ``StopIteration`` out of ``method`` ends it all: out of an asynchronous generator it is the next item."""
    return type(getattr(method, "__self__", None)).__name__ in ("generator", "coroutine")


def wrap_resumable(func: Callable[..., Any], step_for_call: Callable[[], StepFunction]) -> Callable[..., Any]:
    """``func`` with each step going through what ``step_for_call``, asked once per call, gives."""
    if inspect.isasyncgenfunction(func):

        @functools.wraps(func)
        async def asynchronous_generator(*arguments: Any, **named: Any) -> AsyncGenerator[Any, Any]:
            step = step_for_call()
            generator: AsyncGenerator[Any, Any] = func(*arguments, **named)
            resume = generator.asend(None)
            while True:
                try:
                    item = await _awaiting(resume, step)
                except StopAsyncIteration:
                    return
                try:
                    resume = generator.asend((yield item))
                except GeneratorExit:
                    await _awaiting(generator.aclose(), step)
                    raise
                except BaseException as error:
                    resume = generator.athrow(error)

        return asynchronous_generator

    if inspect.iscoroutinefunction(func):

        @functools.wraps(func)
        async def coroutine(*arguments: Any, **named: Any) -> Any:
            return await _awaiting(func(*arguments, **named), step_for_call())

        return coroutine

    @functools.wraps(func)
    def generator(*arguments: Any, **named: Any) -> Generator[Any, Any, Any]:
        return (yield from _stepping(func(*arguments, **named), step_for_call()))

    return generator


def _stepping(body: Any, step: StepFunction) -> Generator[Any, Any, Any]:
    """Runs ``body``, anything with ``send``, ``throw`` and ``close``, to its end."""
    resume, message = body.send, None
    try:
        while True:
            item = step(resume, message)
            try:
                resume, message = body.send, (yield item)
            except GeneratorExit:
                step(body.close)
                raise
            except BaseException as error:
                resume, message = body.throw, error
    except StopIteration as end:
        return end.value


@types.coroutine
def _awaiting(body: Any, step: StepFunction) -> Generator[Any, Any, Any]:
    return (yield from _stepping(body, step))
