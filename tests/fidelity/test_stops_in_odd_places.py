"""A recording that ends where its dispatch mode is not on the stack, and in a forked child, leaves PyTorch at work."""

from __future__ import annotations

import os
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_of_two_recordings_has_no_mode_on_its_stack() -> None:
    with gradprobe.record(level="ops"), gradprobe.record(level="ops"):
        child = os.fork()
        if child == 0:
            os._exit(torch._C._len_torch_dispatch_stack())
        _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
