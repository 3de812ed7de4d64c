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


def test_they_are_subclasses_with_the_same_signatures() -> None:
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


def test_brackets_are_optional_where_pytorch_has_them_optional() -> None:
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


def test_a_plain_call_of_set_grad_enabled_changes_the_mode() -> None:
    gradprobe.set_grad_enabled(False)
    assert modes() == (False, False)
    gradprobe.set_grad_enabled(True)
    assert modes() == (True, False)


@form
def test_a_decorated_coroutine_holds_the_mode_and_no_other_task_does(make: Callable[[], Any], inside: Modes) -> None:
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
def test_a_decorated_asynchronous_generator_keeps_its_protocol(make: Callable[[], Any], inside: Modes) -> None:
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


def test_cancelling_and_failing_coroutines_leave_the_mode_as_it_was() -> None:
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


def test_in_a_recording_a_decorated_coroutine_shows_its_own_line_and_task() -> None:
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


def test_managers_in_other_threads_are_recorded_with_their_threads() -> None:
    def work() -> None:
        with gradprobe.inference_mode():
            pass

    with gradprobe.record() as recording:
        for name in ("one", "two", "one"):
            thread = threading.Thread(target=work, name=name)
            thread.start()
            thread.join()
    assert list(recording.regions["thread"]) == ["one", "two", "one #2"]


def test_a_thread_of_an_earlier_recording_is_none_of_a_later_ones() -> None:
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
