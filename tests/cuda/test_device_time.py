"""Device time on a real accelerator, held to what the profiler and synchronised clocks say."""

from __future__ import annotations

import time

import pytest
import torch

import gradprobe

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def spin(milliseconds: float) -> None:
    """A kernel that runs for about so long."""
    torch.cuda._sleep(int(milliseconds * 1.5e6))  # cycles, at about a gigahertz and a half


def test_device_time_is_that_between_two_events_of_the_programs_own() -> None:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    with gradprobe.record() as recording:
        with torch.no_grad():
            begin.record()
            spin(20)
            end.record()
        torch.cuda.synchronize()
    (ns,) = recording.regions["device_ns"]
    assert ns == pytest.approx(begin.elapsed_time(end) * 1e6, rel=0.05, abs=200_000)


def test_a_block_that_only_launches_ends_long_before_the_device_and_is_kernel_bound() -> None:
    torch.cuda.synchronize()
    with gradprobe.record() as recording:
        with torch.no_grad():
            spin(50)
        before = time.perf_counter()
        torch.cuda.synchronize()
        waited = time.perf_counter() - before
    region = recording.regions.iloc[0]
    assert region["duration_ns"] < region["device_ns"] / 5
    assert region["device_lag_ns"] == pytest.approx(waited * 1e9, rel=0.1, abs=1_000_000)
    assert "kernel-bound" in str(recording)


def test_watching_waits_for_nothing() -> None:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    with gradprobe.record():
        with torch.no_grad():
            spin(200)
        launched = time.perf_counter() - begin
    assert launched < 0.1


def test_memory_that_a_graph_holds_is_told() -> None:
    weight = torch.ones(1024, 1024, device="cuda", requires_grad=True)
    with gradprobe.record() as recording, torch.enable_grad():
        kept = (weight * 2).sin()
    assert int(recording.regions["device_allocated_bytes"][0]) == 2 * weight.nbytes
    del kept


def test_a_captured_stream_gets_no_event_of_ours_and_the_graph_replays() -> None:
    x = torch.ones(8, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with gradprobe.record() as recording:
        with torch.no_grad():
            x * 2
        torch.cuda.synchronize()
        with torch.cuda.graph(graph), torch.no_grad():
            y = x * 2
        graph.replay()
    torch.cuda.synchronize()
    assert y.tolist() == [2.0] * 8
    assert "being captured have no device time (2)" in " ".join(str(recording).split())


def test_blocks_in_two_streams_have_times_of_their_own() -> None:
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with gradprobe.record() as recording:
        with torch.no_grad():
            spin(50)
        with torch.cuda.stream(side), torch.inference_mode():
            spin(5)
    slow, quick = recording.regions["device_ns"]
    assert quick < slow / 2
