"""Machine instructions of one call, counted by valgrind: what else the machine does has no part in them.

One process of its own runs under callgrind, without counting until its workloads are prepared: to import torch would take
four times as long otherwise. PyTorch brings the requests that begin and end a count, as torch.utils.benchmark uses them:
https://docs.pytorch.org/docs/stable/benchmark_utils.html.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from gradprobe.comparison.settings import ComparisonSettings
from gradprobe.comparison.workers.worker_handles import SubprocessWorker, WorkerDied, open_sources
from gradprobe.comparison.workloads.sources import WorkloadSource
from gradprobe.errors import GradprobeError

COUNTING_LIMIT_S: Final = 300.0
"""How long all of it may take."""
WARM_UP_CALLS: Final = 6
COUNTED_CALLS: Final = 5
_TOTAL = re.compile(rb"^totals: (\d+)", re.MULTILINE)
_END = 64

InstructionCounts = dict[str, dict[str, float]]
"""Instructions of one call, by workload and arm."""


def explain_unavailable() -> str | None:
    """Why instructions cannot be counted here; None where they can."""
    for command in ("valgrind", "callgrind_control"):
        if shutil.which(command) is None:
            return f"there is no {command} on the path; install valgrind"
    supported: Callable[[], bool] | None = getattr(torch._C, "_valgrind_supported_platform", None)
    if supported is None or not supported():
        return "this build of torch has no requests to valgrind"
    return None


def count_instructions(
    sources: Sequence[WorkloadSource], names: Sequence[str], settings: ComparisonSettings
) -> tuple[InstructionCounts, str]:
    """The instructions of each workload, and what kept the rest from being counted; empty if nothing did."""
    reason = explain_unavailable()
    if reason is not None:
        return {}, reason
    if settings.device is not None and torch.device(settings.device).type != "cpu":
        return {}, f"valgrind sees nothing of what runs on {settings.device}"
    found: InstructionCounts = {}
    with tempfile.TemporaryDirectory(prefix="gradprobe-") as folder:
        member = SubprocessWorker(
            0,
            modes=settings.modes,
            seed=settings.seed,
            device=settings.device,
            threads=1,
            command=build_callgrind_command(folder),
            variables={"PYTHONHASHSEED": "0"},  # where strings fall in tables decides how long they are looked for
        )
        # Reading an answer has no end of its own.
        limit = threading.Timer(COUNTING_LIMIT_S, member.kill)
        limit.start()
        try:
            member.started()
            open_sources(member, sources)
            for name in names:
                member.ask("prepare", name=name, to_time=False)
            for name in names:
                try:
                    found[name] = member.ask("instructions", name=name, folder=folder)
                except GradprobeError as error:
                    reason = f"{name}: {error}"
        except WorkerDied as loss:
            reason = str(loss) if limit.is_alive() else f"it took more than {COUNTING_LIMIT_S:.0f} s"
        except GradprobeError as error:
            reason = str(error)
        finally:
            limit.cancel()
            member.close()
    return found, reason or ""


def build_callgrind_command(folder: str) -> list[str]:
    """The command under which a program counts once it says so; what it counts goes to files in ``folder``."""
    return [
        "valgrind",
        "--quiet",
        "--tool=callgrind",
        "--instr-atstart=no",
        "--collect-atstart=no",
        f"--callgrind-out-file={folder}/callgrind",
        f"--log-file={folder}/log",
    ]


class InstructionCounter:
    """Counts in the process that runs under callgrind, which writes each count to a file in ``folder``."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._switch_on()
        self._empty = self._least(lambda: _nothing)

    def count_one_call(self, restored: Callable[[], Callable[[], object]]) -> float:
        """Instructions of the call that ``restored`` gives, with its inputs as they were, each time."""
        return self._least(restored) - self._empty

    def _switch_on(self) -> None:
        done = subprocess.run(
            ["callgrind_control", "--instr=on", str(os.getpid())], capture_output=True, text=True, check=False
        )
        if done.returncode or "OK" not in done.stdout:
            told = (done.stderr or done.stdout).strip().splitlines()
            raise GradprobeError(f"valgrind could not be told to begin: {told[-1] if told else 'no reason given'}")

    def _least(self, restored: Callable[[], Callable[[], object]]) -> float:
        """The least of several: now and then a call resizes a table of the interpreter."""
        taken = [self._once(restored()) for _ in range(WARM_UP_CALLS + COUNTED_CALLS)]
        return min(taken[WARM_UP_CALLS:])

    def _once(self, call: Callable[[], object]) -> float:
        requests: Any = torch._C
        requests._valgrind_toggle()
        try:
            call()
        finally:
            requests._valgrind_toggle_and_dump_stats()
            (dump,) = self._folder.glob("callgrind.*")
            total = _TOTAL.search(_end_of(dump))
            dump.unlink()
        if total is None:
            raise GradprobeError("valgrind wrote no total")
        return float(total[1])


def _end_of(path: Path) -> bytes:
    """The last bytes of a file, always as many: a read of another size moves what is allocated later, and its cost."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.lseek(number, -_END, os.SEEK_END)
        return os.read(number, _END)
    finally:
        os.close(number)


def _nothing() -> None:
    """What a count shows that counts nothing."""
