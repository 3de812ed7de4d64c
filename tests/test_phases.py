"""Phases belong to a thread and task, are in all tables, and cost nothing where nothing records."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import types
import weakref
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
import torch

import gradprobe
from gradprobe import phases
from gradprobe.errors import InvalidArgument
from tests import warm_python


@contextlib.contextmanager
def recorded(level: str = "modes") -> Iterator[gradprobe.Recording]:
    with gradprobe.record(level=level) as recording:
        yield recording


def block() -> None:
    with torch.no_grad():
        pass


def phases_of_regions(recording: gradprobe.Recording) -> list[str]:
    return list(recording.regions["phase"])


def test_blocks_belong_to_the_innermost_phase_that_they_begin_in() -> None:
    with recorded() as recording:
        block()
        with gradprobe.phase("outer"):
            block()
            with torch.no_grad(), gradprobe.phase("inner"):
                block()
            block()
        block()
    assert phases_of_regions(recording) == ["", "outer", "outer", "inner", "outer", ""]
    assert list(recording.transitions["phase"])[:2] == ["", ""]
    rows = recording.phases
    assert list(rows["phase"]) == ["outer", "inner"]
    assert list(rows["parent"]) == ["", "outer"]
    assert list(rows["depth"]) == [0, 1]
    assert list(rows["closed"]) == [True, True]
    assert set(rows["file"]) == {__file__}
    assert rows["line"].nunique() == 2


def test_a_phase_belongs_to_its_thread() -> None:
    with recorded() as recording, gradprobe.phase("main"):
        thread = threading.Thread(target=block)
        thread.start()
        thread.join()
        block()
    by_thread = recording.regions.set_index("thread")["phase"].to_dict()
    assert by_thread.pop("MainThread") == "main"
    assert list(by_thread.values()) == [""]


def test_a_phase_belongs_to_its_task_or_to_all_tasks_if_it_is_around_the_loop() -> None:
    async def work(name: str | None) -> None:
        with contextlib.ExitStack() as stack:
            if name is not None:
                stack.enter_context(gradprobe.phase(name))
            for _ in range(2):
                block()
                await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(work("a"), work(None), work("b"))

    with recorded() as recording, gradprobe.phase("loop"):
        asyncio.run(main())
    assert phases_of_regions(recording) == ["a", "loop", "b"] * 2
    assert phases.list_open() == []


def test_every_kind_of_function_can_be_decorated() -> None:
    @gradprobe.phase("p")
    def plain() -> int:
        block()
        return 1

    @gradprobe.phase("p")
    def generator() -> Iterator[int]:
        block()
        yield 1
        block()

    @gradprobe.phase("p")
    async def coroutine() -> int:
        await asyncio.sleep(0)
        block()
        return 2

    @gradprobe.phase("p")
    async def asynchronous_generator() -> AsyncIterator[int]:
        yield 3
        block()

    async def consume() -> list[int]:
        return [await coroutine(), *[item async for item in asynchronous_generator()]]

    with recorded() as recording:
        assert plain() == 1
        for _ in generator():
            block()  # not in the phase: the generator waits
        assert asyncio.run(consume()) == [2, 3]
    assert phases_of_regions(recording) == ["p", "p", "", "p", "p", "p"]
    assert plain.__name__ == "plain"
    assert phases.list_open() == []


def test_a_phase_is_left_by_an_exception_and_by_stop_in_another_thread() -> None:
    @gradprobe.phase("fails")
    def fail() -> None:
        raise KeyError

    running = gradprobe.phase("callback")
    with recorded() as recording:
        with pytest.raises(KeyError):
            fail()
        running.start()
        thread = threading.Thread(target=running.stop)
        thread.start()
        thread.join()
        block()
    assert phases_of_regions(recording) == [""]
    assert list(recording.phases["closed"]) == [True, True]
    with pytest.raises(gradprobe.GradprobeError, match=r"cannot stop the phase 'callback': it is not running"):
        running.stop()


def test_a_phase_may_begin_before_the_recording_and_end_after_it() -> None:
    with gradprobe.phase("around"), recorded() as recording:
        block()
    assert phases_of_regions(recording) == ["around"]
    assert list(recording.phases["closed"]) == [False]


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 201, None, 3])
def test_a_name_that_no_table_can_show_is_refused(name: object) -> None:
    with pytest.raises(InvalidArgument, match="name must be a printable string"):
        gradprobe.phase(name)  # type: ignore[arg-type]


def test_a_class_cannot_be_decorated() -> None:
    with pytest.raises(gradprobe.GradprobeError, match="decorate the methods"):
        gradprobe.phase("p")(int)


def test_without_a_recording_nothing_is_imported(tmp_path: Path) -> None:
    program = (
        "import sys; before = set(sys.modules); import gradprobe\n"
        "with gradprobe.phase('p'): pass\n"
        "new = set(sys.modules) - before\n"
        "assert not [name for name in new if not name.startswith('gradprobe')], new\n"
        "assert not [name for name in new if name.startswith('gradprobe.capture')], new\n"
    )
    # The warm process has torch already, so that only what a phase adds is seen.
    ended = warm_python.run("-c", program, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr.decode()


def test_a_static_method_is_decorated_below_its_decorator() -> None:
    with pytest.raises(gradprobe.GradprobeError, match="below `@staticmethod`"):
        gradprobe.phase("p")(staticmethod(block))


def test_a_decorated_awaitable_generator_is_awaitable() -> None:
    @gradprobe.phase("p")
    @types.coroutine
    def answer() -> Generator[None, None, str]:
        yield
        return phases.current_phase()

    async def ask() -> str:
        return await answer()

    assert asyncio.run(ask()) == "p"


def test_a_suspended_generator_keeps_nothing_that_was_handed_over() -> None:
    @gradprobe.phase("p")
    def batches() -> Generator[torch.Tensor, torch.Tensor, None]:
        while True:
            yield torch.ones(1)

    items = batches()
    item, sent = next(items), torch.zeros(1)
    known = weakref.ref(item)
    del item
    assert known() is None
    known = weakref.ref(sent)
    items.send(sent)
    del sent
    assert known() is None


def test_a_compiled_function_stays_one_graph_between_start_and_stop() -> None:
    phase = gradprobe.phase("p")

    @torch.compile(fullgraph=True, backend="eager")
    def compiled(x: torch.Tensor) -> torch.Tensor:
        phase.start()
        y = x + 1
        phase.stop()
        return y

    assert compiled(torch.ones(1)).item() == 2


def test_a_compiled_function_stays_one_graph() -> None:
    @torch.compile(fullgraph=True, backend="eager")
    def compiled(x: torch.Tensor) -> torch.Tensor:
        with gradprobe.phase("p"):
            return x + 1

    with recorded() as recording:
        assert compiled(torch.ones(1)).item() == 2
    assert list(recording.phases["phase"]) == [phases.COMPILATION]
    assert list(recording.phases["automatic"]) == [True]


def test_what_follows_the_first_backward_is_a_phase_of_its_thread() -> None:
    with recorded("graph") as recording:
        block()
        torch.ones(1, requires_grad=True).sum().backward()
        block()
        with gradprobe.phase("named"):
            block()
    assert phases_of_regions(recording) == ["", phases.AFTER_BACKWARD, "named"]
    assert phases.list_open() == []


def test_the_capture_of_a_cuda_graph_is_a_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = torch.cuda.graph
    monkeypatch.setattr(graph, "__enter__", lambda self: None)
    monkeypatch.setattr(graph, "__exit__", lambda self, *_: None)
    with recorded() as recording, graph.__new__(graph):
        block()
    assert phases_of_regions(recording) == [phases.CAPTURE]


def test_creation_sites_and_findings_have_their_phase(tmp_path: Path) -> None:
    caught: list[str] = []
    with gradprobe.record(tmp_path / "r.gradprobe", level="ops") as recording:
        with gradprobe.phase("warmup"), torch.inference_mode():
            cache = torch.ones(2) * 2
        with gradprobe.phase("train"):
            weight = torch.ones(2, requires_grad=True)
            try:
                (weight * cache).sum().backward()
            except RuntimeError as error:
                caught.append(str(error))
    assert set(recording.births["phase"]) == {"warmup"}
    assert "train" in set(recording.findings["phase"])
    loaded = gradprobe.load(tmp_path / "r.gradprobe")
    assert "Phases" in str(loaded)
    assert [row["phase"] for row in json.loads(loaded.to_json())["phases"]] == ["warmup", "train"]


def test_short_phases_beyond_the_limit_leave_no_open_one_behind() -> None:
    with gradprobe.record(level="modes", max_events=0) as recording:
        for _ in range(100):
            with gradprobe.phase("short"), torch.no_grad():
                pass
        block()
    assert phases.list_open() == []
    assert recording.phases["closed"].all()
    assert recording.sites["count"].sum() == 101
