"""Machine instructions of one call, counted by valgrind, which does not see what else the machine does.

One process runs under callgrind. Instrumentation is disabled until its workloads are prepared, because importing torch
under it would take four times as long. The counting inside that process is in ``measure.callgrind``.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Final

import torch

from gradprobe.comparison.settings import ComparisonSettings
from gradprobe.comparison.workers.worker_handles import SubprocessWorker, WorkerDied, open_sources
from gradprobe.comparison.workloads.sources import WorkloadSource
from gradprobe.errors import GradprobeError

COUNTING_LIMIT_S: Final = 300.0
"""Maximum number of seconds for counting all workloads."""

InstructionCounts = dict[str, dict[str, float]]
"""Instructions of one call, by workload and arm."""


def explain_unavailable() -> str | None:
    """Return why instructions cannot be counted on this machine; None if they can be."""
    for command in ("valgrind", "callgrind_control"):
        if shutil.which(command) is None:
            return f"there is no {command} on the path; install valgrind"
    supported: Callable[[], bool] | None = getattr(torch._C, "_valgrind_supported_platform", None)
    if supported is None or not supported():
        return "this build of torch has no valgrind client requests"
    return None


def count_instructions(
    sources: Sequence[WorkloadSource], names: Sequence[str], settings: ComparisonSettings
) -> tuple[InstructionCounts, str]:
    """Return the instructions of each workload, and why others were not counted; an empty text if all were."""
    reason = explain_unavailable()
    if reason is not None:
        return {}, reason
    if settings.device is not None and torch.device(settings.device).type != "cpu":
        return {}, f"valgrind does not see work on {settings.device}"
    counts: InstructionCounts = {}
    with tempfile.TemporaryDirectory(prefix="gradprobe-") as folder:
        worker = SubprocessWorker(
            0,
            modes=settings.modes,
            seed=settings.seed,
            device=settings.device,
            threads=1,
            command=build_callgrind_command(folder),
            # The order of strings in hash tables decides how long lookups take.
            variables={"PYTHONHASHSEED": "0"},
        )
        # Reading an answer has no time limit of its own.
        limit = threading.Timer(COUNTING_LIMIT_S, worker.kill)
        limit.start()
        try:
            worker.wait_until_ready()
            open_sources(worker, sources)
            for name in names:
                worker.bench.prepare(name, to_time=False)
            for name in names:
                try:
                    counts[name] = worker.bench.instructions(name, folder)
                except GradprobeError as error:
                    reason = f"{name}: {error}"
        except WorkerDied as death:
            reason = str(death) if limit.is_alive() else f"it took more than {COUNTING_LIMIT_S:.0f} s"
        except GradprobeError as error:
            reason = str(error)
        finally:
            limit.cancel()
            worker.close()
    return counts, reason or ""


def build_callgrind_command(folder: str) -> list[str]:
    """Return the command prefix under which a program counts its calls on request, writing to files in ``folder``."""
    return [
        "valgrind",
        "--quiet",
        "--tool=callgrind",
        "--instr-atstart=no",
        "--collect-atstart=no",
        f"--callgrind-out-file={folder}/callgrind",
        f"--log-file={folder}/log",
    ]
