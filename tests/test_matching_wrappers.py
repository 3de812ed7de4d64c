"""Decorated functions take wrong calls, and release their arguments, as the undecorated ones do."""

from __future__ import annotations

import asyncio
import gc
import inspect
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import torch

import gradprobe

Decorate = Callable[[Any], Any]
DECORATORS: dict[str, Decorate] = {
    "nothing": lambda function: function,
    "probe": gradprobe.probe,
    "no_grad": gradprobe.no_grad(),
    "inference_mode": gradprobe.inference_mode(),
}
decorated = pytest.mark.parametrize("decorate", DECORATORS.values(), ids=DECORATORS)


class Value:
    """An object that a weak reference can refer to."""


def generator(a: Any, b: Any = 2, /, c: Any = 3, *rest: Any, d: Any, e: Any = 5, **more: Any) -> Iterator[Any]:
    yield a, b, c, rest, d, e, more


async def coroutine(a: Any, b: Any = 2, /, c: Any = 3, *rest: Any, d: Any, e: Any = 5, **more: Any) -> Any:
    return a, b, c, rest, d, e, more


async def stream(a: Any, b: Any = 2, /, c: Any = 3, *rest: Any, d: Any, e: Any = 5, **more: Any) -> AsyncIterator[Any]:
    yield a, b, c, rest, d, e, more


def take(started: Any) -> Any:
    """Return the value of a coroutine, or the first item of a generator."""

    async def first() -> Any:
        return await started if inspect.iscoroutine(started) else await anext(started)

    return next(started) if inspect.isgenerator(started) else asyncio.run(first())


@decorated
@pytest.mark.parametrize("function", [generator, coroutine, stream])
def test_arguments_arrive_and_wrong_calls_fail_at_the_call(function: Any, decorate: Decorate) -> None:
    made = decorate(function)
    assert inspect.signature(made) == inspect.signature(function)
    assert [check(made) for check in KINDS] == [check(function) for check in KINDS]
    assert take(made(1, d=4)) == (1, 2, 3, (), 4, 5, {})
    assert take(made(1, 9, 8, 7, d=4, z=6)) == (1, 9, 8, (7,), 4, 5, {"z": 6})
    if function is generator and decorate in (DECORATORS["no_grad"], DECORATORS["inference_mode"]):
        return  # PyTorch's own decorators accept any call of a generator function
    for wrong in ({}, {"d": 1, "a": 2}):
        with pytest.raises(TypeError) as expected:
            function(**wrong)
        with pytest.raises(TypeError) as error:
            made(**wrong)
        assert str(error.value) == str(expected.value)


KINDS = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)


def test_a_wrong_call_of_a_generator_is_taken_as_by_torch() -> None:
    for decorate in (torch.no_grad(), gradprobe.no_grad()):
        started = decorate(generator)(wrong=1)
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            next(started)


@pytest.mark.parametrize("decorate", [DECORATORS[name] for name in ("nothing", "probe")])
def test_what_a_body_releases_is_freed_while_it_is_suspended(decorate: Decorate) -> None:
    @decorate
    def items(x: Any) -> Iterator[Any]:
        known = weakref.ref(x)
        del x
        yield 1
        yield known() is None

    @decorate
    async def wait(x: Any) -> Any:
        known = weakref.ref(x)
        del x
        await asyncio.sleep(0)
        return known() is None

    @decorate
    async def send(x: Any) -> AsyncIterator[Any]:
        known = weakref.ref(x)
        del x
        yield 1
        yield known() is None

    async def collect() -> list[Any]:
        return [item async for item in send(Value())]

    # Not within the assertions, which keep the arguments themselves.
    made, waited, collected = list(items(Value())), asyncio.run(wait(Value())), asyncio.run(collect())
    assert (made, waited, collected) == ([1, True], True, [1, True])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_generators_end_as_those_of_torch_do() -> None:
    """Closing, throwing, ignoring the exit and returning at it, with the same results and errors."""

    def items(log: list[str], *, ignores: bool) -> Iterator[Any]:
        try:
            got = yield 1
            yield got
        except KeyError:
            yield "caught"
        except GeneratorExit:
            log.append("exit")
            if ignores:
                yield 3
        finally:
            log.append("closed")

    def use(made: Any, ignores: bool, act: Callable[[Any], Any], steps: int) -> Any:
        log: list[str] = []
        started = made(log, ignores=ignores)
        seen = [next(started) for _ in range(steps)]
        try:
            seen.append(act(started))
        except BaseException as error:
            seen.append((type(error), str(error)))
        seen.append(next(started, "end"))
        del started
        gc.collect()  # the body that ignored its exit may be in a cycle with the error
        return seen, log

    acts: list[Callable[[Any], Any]] = [
        lambda started: started.close(),
        lambda started: started.throw(KeyError("k")),
        lambda started: started.throw(ValueError("v")),
        lambda started: started.throw(GeneratorExit()),
        lambda started: started.send(7),
    ]
    for ignores in (False, True):
        for act in acts:
            for steps in (0, 1):
                expected = use(torch.no_grad()(items), ignores, act, steps)
                assert use(gradprobe.no_grad()(items), ignores, act, steps) == expected
                assert use(gradprobe.probe(items), ignores, act, steps) == expected
