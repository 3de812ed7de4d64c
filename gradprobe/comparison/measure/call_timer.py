"""Timers of blocks of calls: the host's clock, or events in the stream of an accelerator."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch


class HostCallTimer:
    """Timer that reads the host's clock."""

    def __init__(self, now: Callable[[], int] = time.perf_counter_ns) -> None:
        self._now = now
        self.resolution_ns = statistics.median(after - before for before, after in pairwise(now() for _ in range(101)))
        """Nanoseconds that one reading of the clock takes, its step included."""
        self.issued: list[float] = []
        """Share of each block in which the host was issuing work; empty for the host's clock."""

    def start(self) -> Any:
        """Begin a block and return a token for ``stop``."""
        return self._now()

    def stop(self, begin: Any) -> float:
        """Return nanoseconds since ``start`` returned ``begin``."""
        return float(self._now() - begin)


class DeviceCallTimer(HostCallTimer):
    """Timer that records events in the stream of an accelerator. It synchronizes before and after each block."""

    def __init__(self, device: torch.device, now: Callable[[], int] = time.perf_counter_ns) -> None:
        super().__init__(now)
        self._device = device
        self.resolution_ns = 1000.0

    def start(self) -> Any:
        torch.accelerator.synchronize(self._device)
        event = torch.Event(self._device, enable_timing=True)
        event.record()
        return event, self._now()

    def stop(self, begin: Any) -> float:
        first, issued_from = begin
        last = torch.Event(self._device, enable_timing=True)
        last.record()
        issued = self._now() - issued_from
        last.synchronize()
        taken = float(first.elapsed_time(last)) * 1e6
        self.issued.append(min(1.0, issued / taken) if taken else 1.0)
        return taken


def make_call_timer(device: str | None) -> HostCallTimer:
    """Return the timer for the device on which the work runs."""
    target = torch.device(device or "cpu")
    return HostCallTimer() if target.type == "cpu" else DeviceCallTimer(target)
