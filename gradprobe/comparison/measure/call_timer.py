"""How a block of calls is timed: by the host's clock, or on an accelerator by events of the device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch


class HostCallTimer:
    """The host's clock."""

    def __init__(self, now: Callable[[], int] = time.perf_counter_ns) -> None:
        self._now = now
        self.resolution_ns = statistics.median(after - before for before, after in pairwise(now() for _ in range(101)))
        """What a reading of the clock takes, its step included."""
        self.issued: list[float] = []
        """Of each block on an accelerator, the share of its time in which the host was still issuing work."""

    def start(self) -> Any:
        return self._now()

    def stop(self, begin: Any) -> float:
        """Nanoseconds since ``start`` gave ``begin``."""
        return float(self._now() - begin)


class DeviceCallTimer(HostCallTimer):
    """Events in the stream of an accelerator, which is idle when a block begins and is waited for when it has ended."""

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
    """The timer for where the work runs."""
    where = torch.device(device or "cpu")
    return HostCallTimer() if where.type == "cpu" else DeviceCallTimer(where)
