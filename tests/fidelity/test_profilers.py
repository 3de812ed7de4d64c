"""Profilers of the program see what replaces functions of PyTorch, and not what observes operators or writes."""

from __future__ import annotations

import cProfile
import pstats
import sys
import threading
import time
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

import gradprobe

OWN = "gradprobe/capture"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).relu() + x


def forward(model: nn.Module) -> None:
    total = torch.zeros(())
    for _ in range(3):
        total = total + model(torch.randn(2, 3)).sum()


def find_own_functions(profile: cProfile.Profile) -> list[Any]:
    return [place for place in pstats.Stats(profile).stats if OWN in place[0]]  # type: ignore[attr-defined]


def test_a_profile_of_operators_contains_no_function_that_observes_them() -> None:
    profile, model = cProfile.Profile(), nn.Sequential(Block(), Block())
    with gradprobe.record(level="ops") as recording:
        profile.runcall(forward, model)

    assert {"aten.linear", "aten.relu"} <= set(recording.ops["op"])
    assert find_own_functions(profile) == []


def test_a_trace_function_of_the_program_sees_no_function_that_observes_operators() -> None:
    seen: set[str] = set()
    model = nn.Sequential(Block(), Block())

    def trace(frame: Any, event: str, _: Any) -> None:
        seen.add(frame.f_code.co_filename)

    with gradprobe.record(level="ops"):
        sys.settrace(trace)
        try:
            forward(model)
        finally:
            sys.settrace(None)

    assert [name for name in seen if OWN in name] == []
    assert seen


def test_the_writing_thread_drops_a_profile_function_that_was_set_in_all_threads() -> None:
    set_in_all_threads = getattr(threading, "setprofile_all_threads", None)
    if set_in_all_threads is None:
        pytest.skip("this Python sets profile functions in single threads only")
    main, seen = threading.get_ident(), []

    def profile(frame: Any, event: str, _: Any) -> None:
        if threading.get_ident() != main:
            seen.append(frame.f_code.co_name)

    with gradprobe.record(level="modes"):
        set_in_all_threads(profile)
        try:
            time.sleep(0.5)  # ten rounds of writing
        finally:
            set_in_all_threads(None)

    assert set(seen) <= {"_write", "_leave_to_the_program"}


def test_torch_profiler_with_stacks_sees_one_round_of_the_writing_thread() -> None:
    with gradprobe.record(level="modes"):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], with_stack=True) as profiler:
            for _ in range(20):
                with torch.no_grad():
                    torch.ones(3)
                time.sleep(0.01)

    waiting, functions = list(profiler.profiler.kineto_results.experimental_event_tree()), Counter[tuple[int, str]]()
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.tag.name == "PyCall" and OWN in event.name:
            functions[event.start_tid, event.name.rpartition(": ")[2]] += 1
    assert [times for (_, name), times in functions.items() if name in ("__enter__", "__exit__")] == [20, 20]
    # It may begin in the middle of a round, and sees that one to its end.
    assert all(times <= 1 for (_, name), times in functions.items() if name == "_leave_to_the_program")
