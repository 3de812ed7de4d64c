"""The functions that the detectors of level ops patch behave as without them, and are restored."""

from __future__ import annotations

import concurrent.futures.thread as pools
import contextlib
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import gradprobe

HOOKED: list[tuple[Any, str]] = [
    (threading.Thread, "start"),
    (pools._WorkItem, "__init__"),
    (pools._WorkItem, "run"),
    (torch.autocast, "__enter__"),
    (torch.autocast, "__exit__"),
]


def both(program: Callable[[], Any]) -> list[Any]:
    """Run a program without and with a recording of its operators, and return both results."""
    alone = program()
    with gradprobe.record(level="ops"):
        watched = program()
    return [alone, watched]


def test_methods_restored() -> None:
    """Methods are restored."""

    def found() -> list[Any]:
        return [vars(owner).get(name) for owner, name in HOOKED]

    before = found()
    with gradprobe.record(level="ops"):
        torch.ones(2) * 2
        assert all(now is not then for now, then in zip(found(), before, strict=True))
    assert all(now is then for now, then in zip(found(), before, strict=True))


def test_pool_results_and_errors() -> None:
    """Work in a pool returns and fails as without a recording."""

    def fails(x: int) -> int:
        if x == 2:
            raise ValueError("two")
        return x * x

    def program() -> list[Any]:
        found: list[Any] = []
        with torch.no_grad(), ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(fails, x) for x in range(4)]:
                try:
                    found.append(future.result())
                except ValueError as error:
                    frames = traceback.extract_tb(error.__traceback__)
                    found.append((str(error), [(frame.name, frame.lineno) for frame in frames]))
        return found

    alone, watched = both(program)
    assert alone == watched
    assert "two" in alone[2]


def test_threads_left_clean() -> None:
    """Threads of any class carry no attribute of gradprobe afterwards."""

    class Mine(threading.Thread):
        def __init__(self) -> None:
            super().__init__(name="mine")
            self.seen: list[bool] = []

        def start(self) -> None:
            self.seen.append(torch.is_grad_enabled())
            super().start()

        def run(self) -> None:
            (torch.ones(2, requires_grad=True) * 2).sum()
            self.seen.append(torch.is_grad_enabled())

    def program() -> tuple[list[bool], set[str]]:
        thread = Mine()
        with torch.no_grad():
            thread.start()
        thread.join()
        return thread.seen, set(vars(thread))

    alone, watched = both(program)
    assert alone == watched
    assert alone[0] == [False, True]


def test_thread_started_twice() -> None:
    """A thread cannot be started twice, as without a recording."""

    def program() -> tuple[str, str]:
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        with torch.no_grad(), pytest.raises(RuntimeError) as refused:
            thread.start()
        return type(refused.value).__name__, str(refused.value)

    alone, watched = both(program)
    assert alone == watched


def test_autocast_unchanged() -> None:
    """Autocast as block and decorator, and its warnings, are unchanged."""

    @torch.autocast("cpu", dtype=torch.bfloat16)
    def decorated(x: torch.Tensor) -> torch.Tensor:
        return x @ x

    def program() -> list[Any]:
        x = torch.ones(2, 2)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with torch.autocast("cpu", dtype=torch.float32):
                dtypes = [(x @ x).dtype, decorated(x).dtype]
            with torch.autocast("cpu", dtype=torch.bfloat16), contextlib.suppress(ValueError):
                dtypes.append((x @ x).dtype)
                raise ValueError
        dtypes.append((x @ x).dtype)
        return [dtypes, [(str(one.message), one.filename, one.lineno) for one in caught]]

    alone, watched = both(program)
    assert alone == watched
    assert alone[0][1] is torch.bfloat16
    assert alone[1], "PyTorch warns of a type that it cannot cast to"


def test_program_that_traces_itself() -> None:
    """A program that sets a trace function keeps its own events."""

    def program() -> list[tuple[str, str]]:
        heard: list[tuple[str, str]] = []

        def mine(frame: Any, event: str, argument: Any) -> Any:
            if frame.f_code.co_filename == __file__:
                heard.append((event, frame.f_code.co_name))
            return mine

        def traced() -> int:
            return 1

        with torch.inference_mode():
            kept = torch.ones(2)
        before = sys.gettrace()
        sys.settrace(mine)
        traced()
        sys.settrace(before)
        traced()
        del kept
        return heard

    alone, watched = both(program)
    assert alone == watched
    assert ("call", "traced") in alone


def test_traced_generators_and_exceptions() -> None:
    """Generators and exceptions pass through traced code as without a recording."""

    def numbers() -> Any:
        try:
            yield 1
            yield 2
        except KeyError as error:
            yield f"caught {error}"
        finally:
            ends.append("closed")

    ends: list[str] = []

    def program() -> list[Any]:
        ends.clear()
        with torch.inference_mode():
            kept = torch.ones(2)
        generator = numbers()
        found = [next(generator), generator.throw(KeyError("x"))]
        generator.close()
        try:
            kept.add_(1)
        except RuntimeError as error:
            found.append((str(error), error.__context__, error.__cause__))
            found.append([frame.lineno for frame in traceback.extract_tb(error.__traceback__)])
        return [*found, *ends]

    alone, watched = both(program)
    assert alone == watched
    assert "Inplace update" in alone[2][0]
