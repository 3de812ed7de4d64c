"""Threads, tasks, recordings and signals at once: modes stay thread-local, and nothing deadlocks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gradprobe
from gradprobe.recorder import Recorder
from tests import warm_python
from tests.thoroughness import IS_THOROUGH, thorough

LEVELS = ["modes", "graph", "ops"]
MOST_OF_ALL = [pytest.param("modes", marks=thorough), pytest.param("graph", marks=thorough), "ops"]
WEIGHT = torch.ones(3, requires_grad=True)


def in_threads(number: int, work: Callable[[int], None]) -> list[BaseException]:
    """Runs ``work`` in so many threads at once; gives what they raised."""
    raised: list[BaseException] = []
    barrier = threading.Barrier(number)

    def run(index: int) -> None:
        try:
            barrier.wait(60)
            work(index)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads), "a thread waits for ever"
    return raised


def blocks(times: int) -> None:
    """Enters and leaves every mode, and holds each to what it promises."""
    for _ in range(times):
        with torch.no_grad():
            assert not (WEIGHT * 2).requires_grad
            with torch.enable_grad():
                assert (WEIGHT * 2).requires_grad
            with torch.inference_mode():
                assert (WEIGHT * 2).is_inference()
            assert not torch.is_grad_enabled()
        with torch.set_grad_enabled(False):
            assert not torch.is_grad_enabled()
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("level", MOST_OF_ALL)
def test_64_threads(level: str) -> None:
    """64 threads enter and exit modes while recordings start and stop around them."""
    running = threading.Event()
    recorded: list[int] = []

    def work(index: int) -> None:
        if index < 4:
            while not running.is_set():
                with gradprobe.record(level=level) as recording:
                    blocks(2)
                recorded.append(len(recording.regions))
        else:
            blocks(15)

    def stop() -> None:
        running.set()

    timer = threading.Timer(1.5, stop)
    timer.start()
    assert in_threads(64, work) == []
    timer.join()
    assert len(recorded) >= 4
    assert min(recorded) >= 2 * 4


@pytest.mark.parametrize("level", MOST_OF_ALL)
def test_1000_tasks(level: str) -> None:
    """1000 tasks keep their modes across awaits while recordings start and stop."""

    @gradprobe.no_grad()
    async def careful(pauses: int) -> None:
        for _ in range(pauses):
            assert not torch.is_grad_enabled()
            await asyncio.sleep(0)

    @gradprobe.inference_mode()
    async def inferring(pauses: int) -> None:
        for _ in range(pauses):
            assert torch.is_inference_mode_enabled()
            await asyncio.sleep(0)

    async def training(pauses: int) -> None:
        for _ in range(pauses):
            assert (WEIGHT * 2).requires_grad
            await asyncio.sleep(0)

    async def recordings() -> None:
        for _ in range(3):
            with gradprobe.record(level=level):
                await asyncio.sleep(0.01)

    async def everything() -> None:
        kinds = (careful, inferring, training)
        tasks = [kinds[number % 3](number % 7 + 1) for number in range(1_000)]
        await asyncio.gather(recordings(), recordings(), *tasks)

    with gradprobe.record(level=level) as recording:
        asyncio.run(everything())
    counts = recording.regions["manager"].value_counts()
    assert counts["no_grad"] >= 333
    assert counts["inference_mode"] >= 333
    assert "error inside gradprobe" not in str(recording)


@pytest.mark.parametrize("order", ["nested", "overlapping", "at once"])
@pytest.mark.parametrize("level", LEVELS)
def test_two_recordings(level: str, order: str) -> None:
    """Two recordings each see the blocks that they are open for."""
    one, other = Recorder(level=level), Recorder(level="ops")
    first = one.start()
    if order != "at once":
        blocks(1)
    second = other.start()
    blocks(2)
    (other if order == "nested" else one).stop()
    if order != "at once":
        blocks(4)
    (one if order == "nested" else other).stop()
    expected = {"nested": (7, 2), "overlapping": (3, 6), "at once": (2, 2)}[order]
    assert (len(first.regions) / 4, len(second.regions) / 4) == expected
    assert all(first.regions["closed"])
    assert all(second.regions["closed"])


def test_a_thread_starts_while_who_started_it_holds_the_lock_of_the_session(tmp_path: Path) -> None:
    # A finalizer or a handler of signals may start one in the middle of what we do.
    done = warm_python.run("-c", STARTED_UNDER_THE_LOCK, cwd=tmp_path)
    assert done.stdout == b"started\n", done.stderr.decode()


STARTED_UNDER_THE_LOCK = """
import threading, torch, gradprobe
from gradprobe.recorder import _sessions

with gradprobe.record(level="ops"):
    (session,) = _sessions.values()
    with session.lock:
        threading.Thread(target=lambda: torch.ones(2) + 1).start()
        print("started")
"""


def test_signals_that_change_modes_in_the_middle_of_a_hook_leave_them_right(tmp_path: Path) -> None:
    program = """
import signal, sys, torch, gradprobe
heard = 0
def handler(*_):
    global heard
    heard += 1
    with torch.no_grad():
        with torch.inference_mode():
            torch.ones(2) * 2
# The timer counts the time of this process, so that other load on the machine changes nothing.
signal.signal(signal.SIGVTALRM, handler)
weight = torch.ones(2, requires_grad=True)
for level in ("modes", "graph", "ops"):
    with gradprobe.record(level=level) as recording:
        heard = 0
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0005, 0.0005)
        while heard < int(sys.argv[1]):
            with torch.no_grad():
                assert not (weight * 2).requires_grad
            assert (weight * 2).requires_grad
            assert torch.is_grad_enabled()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    # A handler that runs between a change and its event comes before it in the recording: an unknown change then and there.
    blocks = recording.regions[recording.regions["manager"] != "unknown"]
    assert all(blocks["closed"])
    assert len(recording.regions) - len(blocks) < len(blocks) / 5
"""
    done = warm_python.run("-c", program, "120" if IS_THOROUGH else "40", cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()[-2_000:]


@pytest.mark.parametrize("level", MOST_OF_ALL)
def test_the_interpreter_ends_while_threads_are_recorded(level: str, tmp_path: Any) -> None:
    program = f"""
import threading, time, torch, gradprobe
blocks = 0
def work():
    global blocks
    while True:
        with torch.no_grad():
            time.sleep(0.001)
        blocks += 1
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
recorder = gradprobe.record({str(tmp_path / "r.gradprobe")!r}, level={level!r})
recorder.start()
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
blocks = 0
while blocks < 200:
    time.sleep(0.01)
print("the end")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the end\n", "")
    recording = gradprobe.load(tmp_path / "r.gradprobe")
    assert recording._tables.is_complete
    assert len(recording.regions) > 100


def test_wall_clock_changes() -> None:
    """Setting the wall clock back and forth moves no time."""
    import itertools

    from gradprobe.capture.clock import Clock

    # The recording's own clock never goes back; that of the day, by which processes are put side by side, may.
    ticks, days = itertools.count(0, 10), itertools.cycle([10**18, 10**17, 2 * 10**18])
    with Recorder(clock=Clock(now=lambda: next(ticks), wall=lambda: next(days))) as recording:
        blocks(3)
    assert (recording.regions["duration_ns"] > 0).all()
    assert (recording.regions["start_ns"].diff().dropna() > 0).all()
