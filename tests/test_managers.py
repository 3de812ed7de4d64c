"""The drop-in managers are PyTorch's own in every form, and hold in an ``async def`` too."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import torch

import gradprobe

Modes = tuple[bool, bool]
FORMS: dict[str, tuple[Callable[[], Any], Modes]] = {
    "no_grad": (lambda: gradprobe.no_grad(), (False, False)),
    "enable_grad": (lambda: gradprobe.enable_grad(), (True, False)),
    "set_grad_enabled(False)": (lambda: gradprobe.set_grad_enabled(False), (False, False)),
    "inference_mode": (lambda: gradprobe.inference_mode(), (False, True)),
    "inference_mode(False)": (lambda: gradprobe.inference_mode(False), (True, False)),
}
form = pytest.mark.parametrize(("make", "inside"), FORMS.values(), ids=FORMS)


def modes() -> Modes:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


def test_subclasses_with_same_signatures() -> None:
    """The drop-ins are subclasses of PyTorch's with the same signatures."""
    for name in ("no_grad", "enable_grad", "set_grad_enabled", "inference_mode"):
        own, theirs = getattr(gradprobe, name), getattr(torch, name)
        assert issubclass(own, theirs)
        assert own.__enter__ is theirs.__enter__
        assert own.__exit__ is theirs.__exit__
        assert inspect.signature(own.__init__) == inspect.signature(theirs.__init__)
    assert gradprobe.is_grad_enabled is torch.is_grad_enabled
    assert gradprobe.is_inference_mode_enabled is torch.is_inference_mode_enabled


@form
def test_blocks_functions_and_generators_run_in_the_mode(make: Callable[[], Any], inside: Modes) -> None:
    @make()
    def function() -> Modes:
        return modes()

    @make()
    def generator() -> Iterator[Modes]:
        yield modes()
        yield modes()

    assert modes() == (True, False)
    with make():
        assert modes() == inside
    assert function() == inside
    assert [(item, modes()) for item in generator()] == [(inside, (True, False))] * 2


def test_optional_parentheses() -> None:
    """Parentheses are optional where PyTorch allows it."""

    @gradprobe.no_grad
    def without() -> Modes:
        return modes()

    @gradprobe.enable_grad
    async def coroutine() -> Modes:
        return modes()

    @gradprobe.inference_mode
    async def inferring() -> Modes:
        await asyncio.sleep(0)
        return modes()

    assert without() == (False, False)
    with torch.no_grad():
        assert asyncio.run(coroutine()) == (True, False)
    assert asyncio.run(inferring()) == (False, True)


def test_plain_call_sets_mode() -> None:
    """A plain call of ``set_grad_enabled`` changes the mode."""
    gradprobe.set_grad_enabled(False)
    assert modes() == (False, False)
    gradprobe.set_grad_enabled(True)
    assert modes() == (True, False)


@form
def test_coroutine_mode_is_task_local(make: Callable[[], Any], inside: Modes) -> None:
    """A decorated coroutine runs in the mode, and no other task does."""
    seen: list[Modes] = []

    @make()
    async def held() -> list[Modes]:
        found = [modes()]
        for _ in range(3):
            await asyncio.sleep(0)
            found.append(modes())
        return found

    async def other() -> None:
        for _ in range(5):
            seen.append(modes())
            await asyncio.sleep(0)

    async def main() -> list[Modes]:
        results = await asyncio.gather(held(), other(), held())
        return results[0] + results[2]

    assert inspect.iscoroutinefunction(held)
    assert asyncio.run(main()) == [inside] * 8
    assert seen == [(True, False)] * 5
    assert modes() == (True, False)


@form
def test_async_generator_protocol(make: Callable[[], Any], inside: Modes) -> None:
    """A decorated async generator keeps its protocol."""
    ended: list[str] = []

    @make()
    async def generator() -> AsyncIterator[Any]:
        try:
            got = yield modes()
            await asyncio.sleep(0)
            try:
                yield got, modes()
            except KeyError:
                yield "caught", modes()
        finally:
            ended.append(f"{modes()}")

    async def main() -> list[Any]:
        stream = generator()
        found = [await stream.asend(None), modes(), await stream.asend("sent"), await stream.athrow(KeyError())]
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await stream.asend(None)
        return found

    assert inspect.isasyncgenfunction(generator)
    found = asyncio.run(main())
    assert found == [inside, (True, False), ("sent", inside), ("caught", inside)]
    assert ended == [f"{inside}"]


def test_cancelled_coroutine_restores_mode() -> None:
    """Cancelled and failing coroutines restore the mode."""

    @gradprobe.no_grad()
    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            assert modes() == (False, False)

    @gradprobe.inference_mode()
    async def fails() -> None:
        await asyncio.sleep(0)
        raise LookupError("lost")

    async def main() -> None:
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(LookupError, match="lost"):
            await fails()

    asyncio.run(main())
    assert modes() == (True, False)


def test_coroutine_line_and_task() -> None:
    """A decorated coroutine is recorded with its own line and task."""

    @gradprobe.no_grad()
    async def endpoint() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(asyncio.create_task(endpoint(), name="first"), endpoint())

    with gradprobe.record() as recording:
        asyncio.run(main())
    regions = recording.regions
    assert set(regions["function"].str.rpartition(".")[2]) == {"endpoint"}
    assert set(regions["line"]) == {inspect.unwrap(endpoint).__code__.co_firstlineno}
    assert set(regions["form"]) == {"decorator"}
    assert "first" in set(regions["task"])
    assert len(regions) == 4, "each of the two coroutines ran in two steps"


def test_threads_recorded() -> None:
    """Blocks in other threads are recorded with their threads."""

    def work() -> None:
        with gradprobe.inference_mode():
            pass

    with gradprobe.record() as recording:
        for name in ("one", "two", "one"):
            thread = threading.Thread(target=work, name=name)
            thread.start()
            thread.join()
    assert list(recording.regions["thread"]) == ["one", "two", "one #2"]


def test_thread_of_earlier_recording() -> None:
    """A thread of an earlier recording is not a thread of a later one."""

    def work() -> None:
        with torch.no_grad():
            pass

    with gradprobe.record() as whole:
        for _ in range(3):
            with gradprobe.record() as recording:
                thread = threading.Thread(target=work, name="worker")
                thread.start()
                thread.join()
            assert list(recording.regions["thread"]) == ["worker"]
    assert list(whole.regions["thread"]) == ["worker", "worker #2", "worker #3"]
