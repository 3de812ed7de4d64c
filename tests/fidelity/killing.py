"""Kill recorded programs at random moments and examine their files.

As a script:

python -m tests.fidelity.killing [TIMES]
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import gradprobe

LEVELS = ("modes", "graph", "ops")
LONGEST_S = 2.5
MAY_MISS_NS = 1_000_000_000
AT_ONCE = 4


@dataclass
class Victim:
    """A program that runs, the file it is recorded to, and the one in which it keeps its own account."""

    process: int
    level: str
    file: Path
    log: Path
    dies_at: float


def start(folder: Path, level: str, lives_s: float) -> Victim:
    """Fork a process that records itself, and kill it ``lives_s`` seconds after its recording began."""
    file, log = folder / "r.gradprobe", folder / "log"
    ready, started = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(ready)
            _work(file, log, level, started)
        finally:
            os._exit(1)
    os.close(started)
    with os.fdopen(ready, "rb") as waiting:
        if waiting.read(1) != b"!":
            raise RuntimeError(f"the program to be killed did not begin to record at level {level}")
    return Victim(process, level, file, log, time.monotonic() + lives_s)


def _work(file: Path, log: Path, level: str, started: int) -> None:
    """Run one block after the other, sometimes with pauses, and write down the time after each."""
    torch.set_num_threads(1)
    gradprobe.record(file, level=level).start()
    account = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(started, b"!")
    model, x = torch.nn.Linear(4, 4), torch.randn(2, 4)
    for number in range(10**9):
        with torch.no_grad():
            model(x)
        os.write(account, np.int64(time.perf_counter_ns()).tobytes())
        time.sleep(0.002 if number % 400 < 200 else 0)


def kill(victim: Victim, may_miss_ns: int) -> list[str]:
    """Kills ``victim`` when its time has come; gives what is wrong with the file it leaves."""
    time.sleep(max(0.0, victim.dies_at - time.monotonic()))
    os.kill(victim.process, signal.SIGKILL)
    killed_ns = time.perf_counter_ns()
    os.waitpid(victim.process, 0)
    done = np.frombuffer(victim.log.read_bytes(), np.int64)
    certain = int((done < killed_ns - may_miss_ns).sum())
    try:
        recording = gradprobe.load(victim.file)
        events = recording.transitions["event"].tolist()
        seen = {"blocks": events.count("exit")}
        if victim.level == "ops":
            products = recording.ops[recording.ops["op"] == "aten.addmm"]
            seen["operators"] = int(products["count"].sum())
        recording.to_json()
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    wrong = [f"{seen[of]} {of} of {certain}" for of in seen if not certain <= seen[of] <= len(done) + 1]
    if events != ["enter", "exit"] * (len(events) // 2) + ["enter"] * (len(events) % 2):
        wrong.append("transitions out of order")
    if recording._tables.is_complete:
        wrong.append("said to be complete")
    return wrong


def trial(
    times: int, seed: int, folder: Path, *, longest_s: float = LONGEST_S, may_miss_ns: int = MAY_MISS_NS
) -> list[str]:
    """Kills ``times`` programs, a few of which run side by side; gives what was wrong, with the moment of the kill."""
    choose = random.Random(seed)
    found = []
    for first in range(0, times, AT_ONCE):
        victims = []
        for number in range(first, min(first + AT_ONCE, times)):
            own = folder / str(number)
            own.mkdir()
            lives_s = choose.uniform(0, longest_s)
            victims.append((lives_s, start(own, LEVELS[number % len(LEVELS)], lives_s)))
        for lives_s, victim in sorted(victims, key=lambda one: one[1].dies_at):
            found += [
                f"level {victim.level}, killed after {lives_s:.3f} s: {text}" for text in kill(victim, may_miss_ns)
            ]
    return found


if __name__ == "__main__":
    times, seed = int(sys.argv[1]) if len(sys.argv) > 1 else 200, random.randrange(10**6)
    with tempfile.TemporaryDirectory() as place:
        wrong = trial(times, seed, Path(place))
    print(f"{times} programs killed (seed {seed}): {len(wrong)} left a file that is wrong")
    print(*wrong, sep="\n")
    sys.exit(bool(wrong))
