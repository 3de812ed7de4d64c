"""Recordings that end while their dispatch mode is not on the stack, or in a forked child."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

import gradprobe
from gradprobe.recorder import Recorder

_running: list[Recorder] = []


@torch.library.custom_op("gradprobe_tests::stop", mutates_args=())
def stop_inside(x: torch.Tensor) -> torch.Tensor:
    _running.pop().stop()
    return x.clone()


def inside_an_operator() -> None:
    stop_inside(torch.ones(2))


def where_all_modes_are_down() -> None:
    with _disable_current_modes():
        _running.pop().stop()


@pytest.fixture(autouse=True)
def no_mode_stays() -> Iterator[None]:
    yield
    while torch._C._len_torch_dispatch_stack():
        torch._C._pop_torch_dispatch_stack(None)


@pytest.mark.parametrize("stop", [inside_an_operator, where_all_modes_are_down])
def test_operators_work_after_a_recording_that_was_stopped(stop: Callable[[], None]) -> None:
    recorder = gradprobe.record(level="ops")
    _running.append(recorder)
    recorder.start()

    stop()

    assert (torch.ones(2) + 1).tolist() == [2, 2]


def in_another_thread() -> None:
    thread = threading.Thread(target=_running.pop().stop)
    thread.start()
    thread.join()


@pytest.mark.parametrize("stop", [inside_an_operator, where_all_modes_are_down, in_another_thread])
def test_modes_that_stay_on_the_stack_do_not_pile_up(stop: Callable[[], None]) -> None:
    for _ in range(5):
        recorder = gradprobe.record(level="ops")
        _running.append(recorder)
        recorder.start()
        stop()
    with gradprobe.record(level="ops") as recording:
        assert torch._C._len_torch_dispatch_stack() == 1
        torch.ones(2).add_(1)
    assert recording.ops["count"].sum() == 2
    assert torch._C._len_torch_dispatch_stack() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_of_two_recordings_has_no_mode_on_its_stack() -> None:
    with gradprobe.record(level="ops"), gradprobe.record(level="ops"):
        child = os.fork()
        if child == 0:
            os._exit(torch._C._len_torch_dispatch_stack())
        _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
