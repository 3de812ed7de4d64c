"""Timing on a simulated accelerator: which events are waited for and read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gradprobe.comparison.measure.bench import Bench
from gradprobe.comparison.measure.call_timer import DeviceCallTimer, HostCallTimer, make_call_timer
from gradprobe.comparison.workloads.workload import Workload


class Device:
    """Accelerator that finishes ``lag_ns`` after the host has issued its work."""

    def __init__(self, lag_ns: int) -> None:
        self.ns, self.lag_ns = 0, lag_ns

    def now(self) -> int:
        return self.ns

    def event(self, *_: Any, **__: Any) -> Any:
        device = self

        class Event:
            at = 0

            def record(self) -> None:
                self.at = device.ns

            def synchronize(self) -> None:
                self.at += device.lag_ns

            def elapsed_time(self, other: Any) -> float:
                return float(other.at - self.at) / 1e6  # milliseconds

        return Event()


@pytest.mark.parametrize(("lag_ns", "issued"), [(0, 1.0), (3000, 0.25)])
def test_a_block_on_a_device_is_timed_by_events_and_shows_how_long_the_host_issued(
    monkeypatch: pytest.MonkeyPatch, lag_ns: int, issued: float
) -> None:
    device = Device(lag_ns)
    waited = []
    monkeypatch.setattr(torch, "Event", device.event)
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    timer = DeviceCallTimer(torch.device("cpu"), device.now)
    begin = timer.start()
    device.ns += 1000
    assert timer.stop(begin) == 1000 + lag_ns
    assert timer.issued == [issued]
    assert len(waited) == 1

    def call() -> None:
        device.ns += 1000

    bench = Bench(("no_grad", "inference_mode"), seed=0, timer=timer)
    bench.add([Workload("work", lambda: call)])
    bench.prepare("work", warm_up_s=0.0)
    bench.measure("work", seconds=0.0, rounds=3)
    share = bench.issued("work")
    assert share is not None
    assert (share == 1.0) == (lag_ns == 0)
    assert 0 < share <= 1


def test_the_host_is_timed_by_its_clock() -> None:
    assert type(make_call_timer(None)) is HostCallTimer
    bench = Bench(("no_grad", "inference_mode"), seed=0)
    bench.add([Workload("work", lambda: lambda: None)])
    bench.prepare("work", warm_up_s=0.0)
    bench.measure("work", seconds=0.0)
    assert bench.issued("work") is None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_models_are_timed_by_events_of_a_gpu() -> None:
    from gradprobe.comparison.compare import compare_sources
    from gradprobe.comparison.settings import validate_settings
    from gradprobe.comparison.workloads.sources import WorkloadSource

    result = compare_sources(
        [WorkloadSource("suite", "models")], validate_settings(budget_s=20.0, processes=2, device="cuda")
    )
    assert not result.table["error"].any()
    issued = [compared.issued for compared in result._outcome.workloads]
    assert all(share is not None and 0 < share <= 1 for share in issued)
