"""Interrupts in the middle of a hook: modes stay correct, and the recording can be read."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from gradprobe.capture.clock import Clock
from gradprobe.recorder import Recorder


@pytest.mark.parametrize("level", ["modes", "graph", "ops"])
def test_interrupt_at_any_clock_read(level: str) -> None:
    """Interrupts at any read of the clock leave modes, functions and the mode stack correct."""
    weight = torch.ones(2, requires_grad=True)

    def work() -> None:
        with torch.no_grad():
            weight * 2
        with torch.inference_mode():
            weight * 2
        with torch.set_grad_enabled(False):
            weight.view(2)
        (weight * 2).sum().backward()

    left = -1  # readings until one is interrupted

    def now() -> int:
        nonlocal left
        if threading.current_thread() is threading.main_thread():  # interrupts reach no other
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return time.perf_counter_ns()

    stack = torch._C._len_torch_dispatch_stack()
    interrupted = 0
    with Recorder(level=level, clock=Clock(now=now, wall=lambda: 0)) as recording:
        watched = torch._C._len_torch_dispatch_stack()
        for reading in range(1, 40):
            left = reading
            try:
                work()
            except KeyboardInterrupt:
                interrupted += 1
            left = -1
            # As in PyTorch's own methods, an interrupt between the change and the block leaves the change.
            torch._C._set_grad_enabled(True)
            assert not torch.is_inference_mode_enabled()
            assert torch._C._len_torch_dispatch_stack() == watched
            assert torch._C._is_torch_function_enabled()
            work()
    assert interrupted >= 6
    assert torch._C._len_torch_dispatch_stack() == stack
    assert {"no_grad", "inference_mode"} <= set(recording.regions["manager"])
    assert "inside gradprobe" not in str(recording)
