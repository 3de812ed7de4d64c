"""Recordings that end within an operator, where no mode is on the stack, in another thread or in a forked child."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

import gradprobe
from gradprobe.capture.ops.native.loader import load_core
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
def test_after_stops_in_odd_places_each_operator_is_seen_once(stop: Callable[[], None]) -> None:
    for _ in range(5):
        recorder = gradprobe.record(level="ops")
        _running.append(recorder)
        recorder.start()
        stop()
    with gradprobe.record(level="ops") as recording:
        torch.ones(2).add_(1)
    assert recording.ops["count"].sum() == 2
    torch.ones(2)
    assert not load_core().is_key_included()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_of_two_recordings_is_not_observed() -> None:
    with gradprobe.record(level="ops"), gradprobe.record(level="ops"):
        child = os.fork()
        if child == 0:
            os._exit(load_core().is_key_included())
        _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
