"""Instruction counter for a process that runs under callgrind.

PyTorch provides the client requests that begin and end a count, as torch.utils.benchmark uses them:
https://docs.pytorch.org/docs/stable/benchmark_utils.html. The process is started by
``workers.instruction_counts.build_callgrind_command``.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from gradprobe.errors import GradprobeError

WARM_UP_CALLS: Final = 6
COUNTED_CALLS: Final = 5
_TOTAL = re.compile(rb"^totals: (\d+)", re.MULTILINE)
_TAIL_BYTES = 64


class InstructionCounter:
    """Counter of the machine instructions of single calls. Callgrind writes each count to a file in ``folder``."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._enable_instrumentation()
        self._empty_call = self._count_least(lambda: _do_nothing)

    def count_one_call(self, restore: Callable[[], Callable[[], object]]) -> float:
        """Return the instructions of the call that ``restore`` returns, with its inputs restored before each repeat."""
        return self._count_least(restore) - self._empty_call

    def _enable_instrumentation(self) -> None:
        done = subprocess.run(
            ["callgrind_control", "--instr=on", str(os.getpid())], capture_output=True, text=True, check=False
        )
        if done.returncode or "OK" not in done.stdout:
            lines = (done.stderr or done.stdout).strip().splitlines()
            cause = lines[-1] if lines else "callgrind_control gave no reason"
            raise GradprobeError(f"cannot enable valgrind's instrumentation: {cause}; check the valgrind installation")

    def _count_least(self, restore: Callable[[], Callable[[], object]]) -> float:
        """Return the smallest of several counts: now and then a call resizes one of the interpreter's tables."""
        counts = [self._count_once(restore()) for _ in range(WARM_UP_CALLS + COUNTED_CALLS)]
        return min(counts[WARM_UP_CALLS:])

    def _count_once(self, call: Callable[[], object]) -> float:
        requests: Any = torch._C
        requests._valgrind_toggle()
        try:
            call()
        finally:
            requests._valgrind_toggle_and_dump_stats()
            (dump,) = self._folder.glob("callgrind.*")
            total = _TOTAL.search(_read_tail(dump))
            dump.unlink()
        if total is None:
            raise GradprobeError("cannot count instructions: valgrind wrote no total; check the valgrind installation")
        return float(total[1])


def _read_tail(path: Path) -> bytes:
    """Return the last ``_TAIL_BYTES`` bytes of a file.

    The number is fixed because a read of another size moves later allocations, and with them their cost.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        os.lseek(number, -_TAIL_BYTES, os.SEEK_END)
        return os.read(number, _TAIL_BYTES)
    finally:
        os.close(number)


def _do_nothing() -> None:
    """Empty call, whose count is subtracted from the others."""
