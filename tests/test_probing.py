"""Probes see all of their function's calls and nothing else, and change nothing about the function."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import gradprobe
from gradprobe.probing import Probe

WEIGHT = torch.ones(3, requires_grad=True)


def managers(recording: gradprobe.Recording) -> list[str]:
    return list(recording.regions["manager"])


def test_a_function_is_recorded_while_it_runs_and_only_then() -> None:
    @gradprobe.probe
    def predict(x: torch.Tensor) -> torch.Tensor:
        """Predicts."""
        with torch.no_grad():
            return x * WEIGHT

    with torch.inference_mode():
        pass
    assert not predict(torch.ones(3)).requires_grad
    with torch.enable_grad():
        (torch.ones(3) * WEIGHT).sum()
    assert managers(predict.recording) == ["no_grad"]
    call = predict.recording.calls.iloc[0]
    assert (call["nodes"], call["closed"], call["error"]) == (0, True, "")
    assert call["function"].endswith("predict")
    assert predict.__doc__ == "Predicts."
    assert list(inspect.signature(predict).parameters) == ["x"]


def test_methods_recursion_and_exceptions() -> None:
    class Countdown:
        @gradprobe.probe
        def run(self, left: int) -> None:
            with torch.no_grad():
                if not left:
                    raise LookupError("done")
                self.run(left - 1)

    with pytest.raises(LookupError, match="done"):
        Countdown().run(3)
    recording = Countdown.run.recording  # type: ignore[attr-defined]
    assert list(recording.calls["error"]) == ["LookupError"] * 4
    assert list(recording.regions["depth"]) == [0, 1, 2, 3]
    assert list(recording.regions["error"]) == ["LookupError"] * 4


def test_a_mode_that_a_call_leaves_on_is_seen_as_still_in_force() -> None:
    @gradprobe.probe
    def forgets() -> None:
        torch.set_grad_enabled(False)

    forgets()
    torch.set_grad_enabled(True)
    region = forgets.recording.regions.iloc[0]
    assert (region["manager"], region["form"], region["closed"]) == ("set_grad_enabled", "call", False)
    forgets()
    torch.set_grad_enabled(True)
    assert managers(forgets.recording) == ["set_grad_enabled"] * 2, "what happened between the calls is none of its own"


def test_a_generator_counts_by_its_own_steps_and_keeps_its_protocol() -> None:
    @gradprobe.probe
    def numbers() -> Iterator[int]:
        with torch.no_grad():
            got = yield 1
            try:
                yield got
            except KeyError:
                yield 3
        return 4

    assert inspect.isgeneratorfunction(numbers)
    generator = numbers()
    assert next(generator) == 1
    with torch.enable_grad():
        (torch.ones(3) * WEIGHT).sum()
    assert generator.send(2) == 2
    assert generator.throw(KeyError()) == 3
    with pytest.raises(StopIteration) as end:
        next(generator)
    assert end.value.value == 4
    torch.set_grad_enabled(True)
    recording = numbers.recording
    assert managers(recording) == ["no_grad"]
    call = recording.calls.iloc[0]
    assert (call["steps"], call["nodes"], call["closed"]) == (4, 0, True)
    closed = numbers()
    next(closed)
    closed.close()
    assert list(recording.calls["closed"]) == [True, True]


def test_coroutines_and_asynchronous_generators_are_seen_without_what_runs_while_they_wait() -> None:
    @gradprobe.probe
    async def builds(count: int) -> int:
        for _ in range(count):
            (torch.ones(3) * WEIGHT).sum()
            await asyncio.sleep(0)
        return count

    @gradprobe.probe
    async def streams() -> AsyncIterator[bool]:
        with torch.inference_mode():
            inside = torch.is_inference_mode_enabled()
        yield inside
        await asyncio.sleep(0)
        yield inside

    async def main() -> list[int]:
        return list(await asyncio.gather(builds(2), builds(5)))

    async def stream() -> list[bool]:
        return [value async for value in streams()]

    assert inspect.iscoroutinefunction(builds)
    assert inspect.isasyncgenfunction(streams)
    assert asyncio.run(main()) == [2, 5]
    assert asyncio.run(stream()) == [True, True]
    calls = builds.recording.calls
    assert sorted(calls["nodes"]) == [4, 10]
    assert calls["task"].nunique() == 2
    assert managers(streams.recording) == ["inference_mode"]
    assert list(streams.recording.calls["closed"]) == [True]


def test_calls_from_many_threads_at_once_are_all_counted() -> None:
    barrier = threading.Barrier(8)

    @gradprobe.probe
    def work(number: int) -> int:
        if number < 8:
            barrier.wait(30)
        for _ in range(3):
            with torch.no_grad():
                pass
        return number

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(200))) == list(range(200))
    assert len(work.recording.calls) == 200
    assert len(work.recording.regions) == 600
    assert work.recording.calls["thread"].nunique() == 8


def test_a_block_is_recorded_under_its_name() -> None:
    with gradprobe.probe(name="evaluate") as block, torch.no_grad():
        pass
    assert isinstance(block, Probe)
    assert managers(block.recording) == ["no_grad"]
    assert list(block.recording.calls["function"]) == ["evaluate"]
    assert "evaluate" in str(block.recording)


class Scale:
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return x * 2


def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (functools.partial(double), "double"),
        (functools.partial(torch.relu), "relu"),
        (torch.relu, "relu"),
        (Scale(), "Scale"),
        (functools.partial(Scale()), "Scale"),
    ],
)
def test_what_is_no_function_of_python_goes_by_the_name_under_it_and_never_by_an_address(
    function: Callable[..., torch.Tensor], name: str
) -> None:
    bare, named = gradprobe.probe(function), gradprobe.probe(name="mine")(function)
    bare(torch.ones(1))
    named(torch.ones(1))
    assert str(bare.recording.calls.iloc[0]["function"]).endswith(name)  # type: ignore[attr-defined]
    assert list(named.recording.calls["function"]) == ["mine"]  # type: ignore[attr-defined]
    assert name in str(bare.recording)  # type: ignore[attr-defined]


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(gradprobe.GradprobeError, match="name must be a non-empty string"):
        gradprobe.probe(name="")


def test_a_probed_call_appears_in_an_open_recording_too() -> None:
    @gradprobe.probe(level="modes")
    def inner() -> None:
        with torch.no_grad():
            pass

    with gradprobe.record() as recording:
        inner()
    assert len(recording.calls) == 1
    assert managers(recording) == managers(inner.recording) == ["no_grad"]


def test_switched_off_nothing_is_recorded_and_switched_on_again_it_is() -> None:
    @gradprobe.probe
    def f() -> None:
        with torch.no_grad():
            pass

    gradprobe.disable()
    try:
        f()
        with gradprobe.record() as recording, gradprobe.probe() as block:
            f()
        assert f.recording.calls.empty
        assert recording.transitions.empty
        assert "gradprobe is disabled" in str(recording)
        assert block.recording.calls.empty
    finally:
        gradprobe.enable()
    f()
    assert len(f.recording.calls) == 1


def test_with_gradprobe_0_the_function_is_returned_as_it_is() -> None:
    program = """
import gradprobe
def f(): return 7
assert gradprobe.probe(f) is f and gradprobe.probe(level="ops")(f) is f and f() == 7
print(f.recording)
gradprobe.enable()
assert gradprobe.probe(f) is f
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "GRADPROBE": "0"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("wrong", [3, None, int, type("Thing", (), {})])
def test_what_is_no_function_is_refused(wrong: object) -> None:
    with pytest.raises(gradprobe.GradprobeError, match="cannot probe"):
        gradprobe.probe(level="modes")(wrong)  # type: ignore[arg-type]
    with pytest.raises(gradprobe.GradprobeError, match="level must be 'modes', 'graph' or 'ops'"):
        gradprobe.probe(level="deep")
