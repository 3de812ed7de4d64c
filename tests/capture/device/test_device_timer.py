"""Device time of blocks, on a simulated device with a known queue, clock and memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch

from gradprobe.capture.device import device_timer
from gradprobe.history.device_times import DeviceTime
from gradprobe.recorder import Recorder, get_session
from gradprobe.report.sections.device_tables import KERNEL_BOUND, LAUNCH_BOUND, classify_bound
from gradprobe.result import Recording
from tests.conftest import FakeClock

US = 1_000


@dataclass
class FakeEvent:
    device: FakeDevice
    passed_ns: int | None = None
    index: int = 0

    def record(self) -> None:
        self.device.recorded += 1
        # It passes once all that was queued before it in its stream has run.
        self.passed_ns = max(self.device.clock.ns, self.device.free.get(self.device.where(), 0))
        self.index = self.device.index

    def synchronize(self) -> None:
        assert self.passed_ns is not None
        self.device.waits.append(self.device.clock.ns)
        self.device.clock.ns = max(self.device.clock.ns, self.passed_ns)

    def elapsed_time(self, end_event: FakeEvent) -> float:
        assert self.passed_ns is not None
        assert end_event.passed_ns is not None
        if self.index != end_event.index:
            raise RuntimeError("events of two devices")
        return (end_event.passed_ns - self.passed_ns) / 1e6


@dataclass
class FakeDevice:
    """Kernels take the time they are said to, one after the other in each stream."""

    clock: FakeClock
    index: int = 0
    stream: int = 7
    capturing: bool = False
    in_use: bool = True
    free: dict[tuple[int, int], int] = field(default_factory=dict)
    made: int = 0
    recorded: int = 0
    waits: list[int] = field(default_factory=list)
    allocated: int = 100
    peak: int = 500

    def launch(self, launching: int, running: int, held: int = 0) -> None:
        """A kernel that the processor takes ``launching`` to launch and the device ``running`` to run."""
        self.clock.advance(launching)
        self.free[self.where()] = max(self.clock.ns, self.free.get(self.where(), 0)) + running
        self.allocated += held
        self.peak = max(self.peak, self.allocated)

    def is_in_use(self) -> bool:
        return self.in_use

    def is_capturing(self) -> bool:
        return self.capturing

    def where(self) -> tuple[int, int]:
        return self.index, self.stream

    def event(self, device: int) -> FakeEvent:
        self.made += 1
        return FakeEvent(self)

    def memory(self, device: int) -> tuple[int, int]:
        return self.allocated, self.peak


@pytest.fixture
def device(clock: FakeClock) -> Iterator[FakeDevice]:
    fake = FakeDevice(clock)
    session = get_session(clock.clock)
    session.devices = session.make_device_timer(fake)
    yield fake
    session.devices = None


def recorded(device: FakeDevice, level: str = "graph") -> Recorder:
    return Recorder(level=level, clock=device.clock.clock)


def times(recording: Recording) -> list[DeviceTime]:
    (process,) = recording._tables.processes
    return [process.device_times[region] for region in process.history.regions if region in process.device_times]


@pytest.mark.parametrize("level", ["graph", "ops"])
def test_device_time_and_lag(device: FakeDevice, level: str) -> None:
    """A block has the device time between its edges, and the lag of the device."""
    with recorded(device, level) as recording:
        with torch.no_grad():
            device.launch(10 * US, 100 * US)
            device.launch(10 * US, 100 * US)
        device.clock.advance(1_000 * US)
        with torch.inference_mode():
            device.launch(10 * US, 1 * US)
            device.clock.advance(50 * US)
    kernel, launch = times(recording)
    # The first edge passes at once; the last after both kernels, of which the first began 10 us later.
    assert (kernel.ns, kernel.lag_ns) == (210 * US, 190 * US)
    assert (launch.ns, launch.lag_ns) == (60 * US, 0)
    assert [*recording.regions["device_ns"]] == [210 * US, 60 * US]
    assert [*recording.regions["duration_ns"]] == [20 * US, 60 * US]
    assert [*recording.regions["device"]] == [0, 0]
    text = str(recording)
    assert "Device time" in text
    assert text.index(KERNEL_BOUND) < text.rindex(LAUNCH_BOUND)
    assert sorted(recording.sites["device_ns"]) == [60 * US, 210 * US]


def test_no_wait_before_end(device: FakeDevice) -> None:
    """Nothing waits for the device before the recording ends."""
    with recorded(device) as recording:
        for _ in range(5):
            with torch.no_grad():
                device.launch(1 * US, 50 * US)
        with get_session(device.clock.clock).lock:
            get_session(device.clock.clock).drain()
        before = list(device.waits)
    assert before == []
    assert len(device.waits) == 2, "one for the stream, one for the anchor"
    assert sum(time.ns for time in times(recording)) > 0


def test_nested_blocks_streams_and_devices(device: FakeDevice) -> None:
    """Nested blocks, several streams and several devices have their own times."""
    with recorded(device) as recording:
        with torch.no_grad():
            device.launch(10 * US, 40 * US)
            device.stream = 8
            with torch.enable_grad():
                device.launch(10 * US, 30 * US)
            device.stream = 7
        device.index = 1
        with torch.no_grad():
            device.launch(5 * US, 20 * US)
            device.index = 0
    outer, inner = times(recording)
    assert (outer.ns, outer.lag_ns) == (50 * US, 30 * US)
    assert (inner.ns, inner.lag_ns) == (40 * US, 30 * US)
    across = recording.regions.iloc[2]
    assert across["device_ns"] != across["device_ns"], "its edges are on two devices: no time, not 0"


def test_captured_stream(device: FakeDevice) -> None:
    """Nothing is recorded in a stream that is being captured, and the report says so."""
    with recorded(device) as recording:
        with torch.no_grad():
            device.launch(1 * US, 5 * US)
        device.capturing = True
        before = device.recorded
        with torch.no_grad():
            device.launch(1 * US, 5 * US)
        captured = device.recorded - before
        device.capturing = False
    assert captured == 0
    assert len(times(recording)) == 1
    assert "block edges in streams that were being captured have no device time (2)" in " ".join(str(recording).split())


def test_end_during_capture(device: FakeDevice) -> None:
    """A recording that ends during a capture waits for nothing."""
    recorder = recorded(device)
    recording = recorder.start()
    with torch.no_grad():
        device.launch(1 * US, 5 * US)
    device.capturing = True
    recorder.stop()
    device.capturing = False
    assert device.waits == []
    assert times(recording) == []
    assert "while a stream was being captured" in " ".join(str(recording).split())


def test_unused_device(device: FakeDevice) -> None:
    """A device that the program does not use is not touched."""
    device.in_use = False
    with recorded(device) as recording, torch.no_grad():
        pass
    assert (device.made, device.recorded) == (0, 0)
    assert "Device time" not in str(recording)
    assert recording.regions["device_ns"].isna().all()


def test_level_modes_takes_no_device_time(device: FakeDevice) -> None:
    with recorded(device, "modes") as recording, torch.no_grad():
        device.launch(1 * US, 5 * US)
    assert device.made == 0
    assert recording.regions["device_ns"].isna().all()


def test_events_are_reused(device: FakeDevice) -> None:
    """Events are reused once they were read."""
    for _ in range(3):
        with recorded(device):
            for _ in range(4):
                with torch.no_grad():
                    device.launch(1 * US, 1 * US)
    assert device.recorded == 3 * (8 + 1)
    assert device.made == 8 + 3, "eight for the edges, taken again, and one to tie the clocks each time"


def test_memory_at_end_and_peak(device: FakeDevice) -> None:
    """Memory is the increase in tensor bytes at the end and at the peak."""
    with recorded(device) as recording:
        with torch.no_grad():
            device.launch(1, 1, held=300)  # 400 in all, which is below the peak of 500 before
        with torch.no_grad():
            device.launch(1, 1, held=600)
            device.launch(1, 1, held=-500)
    first, second = times(recording)
    assert (first.allocated_bytes, first.peak_bytes) == (300, None)
    assert (second.allocated_bytes, second.peak_bytes) == (100, 600)


def test_edges_beyond_limit(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edges beyond the limit are counted and reported."""
    monkeypatch.setattr(device_timer, "_MAX_MARKS", 4)
    with recorded(device) as recording:
        for _ in range(3):
            with torch.no_grad():
                device.launch(1 * US, 1 * US)
    assert len(times(recording)) == 2
    assert "block edges beyond the first 4 have no device time (2)" in " ".join(str(recording).split())


def test_precision_over_hours(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times stay exact over hours, although devices report differences in single precision."""
    import numpy as np

    exact = FakeEvent.elapsed_time
    monkeypatch.setattr(FakeEvent, "elapsed_time", lambda self, end: float(np.float32(exact(self, end))))
    with recorded(device) as recording:
        for _ in range(100):
            with torch.no_grad():
                device.launch(10 * US, 30 * US)
            device.clock.advance(60_000_000 * US)  # a minute
    assert [time.ns for time in times(recording)] == pytest.approx([40 * US] * 100, abs=1 * US)


def test_device_errors(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of the device cost times and nothing else."""

    def broken(self: FakeEvent, end: FakeEvent) -> float:
        raise RuntimeError("device-side assert triggered")

    monkeypatch.setattr(FakeEvent, "elapsed_time", broken)
    with recorded(device) as recording:
        for _ in range(2):
            with torch.no_grad():
                device.launch(1 * US, 1 * US)
    assert len(recording.regions) == 2
    assert times(recording) == []
    assert "device-side assert triggered" in str(recording)


def test_bound_of_block_by_lag() -> None:
    """The lag of a block decides what bounds it."""

    def lagging(ns: int) -> DeviceTime:
        return DeviceTime(0, 0, ns, None, None)

    assert classify_bound([(100 * US, lagging(19 * US))]) == LAUNCH_BOUND
    assert classify_bound([(100 * US, lagging(21 * US))]) == KERNEL_BOUND
    assert classify_bound([(10_000 * US, lagging(900 * US))]) == LAUNCH_BOUND
    assert classify_bound([(10_000 * US, lagging(1_100 * US))]) == KERNEL_BOUND
