"""The process that scripts and test runs are forked from, so that each finds torch imported."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

from gradprobe.advice.run_request import FIXED_VARIABLES, RunRequest
from gradprobe.errors import GradprobeError


class ForkServer:
    """Process that forks itself for each run.

    Args:
        preload: Modules that the runs would each import for themselves.
    """

    def __init__(self, preload: Sequence[str]) -> None:
        root = RunRequest([], [], "").root
        others = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gradprobe.advice.watched_process", *preload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *others]), **FIXED_VARIABLES},
        )

    def run(self, request: RunRequest, limit_s: float) -> int | None:
        """Run a request and return the exit code, or None if it did not end in time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(request.to_json().encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise GradprobeError("cannot run the program: torch cannot be imported; see gradprobe debug")
        child = int(answer)
        is_late = threading.Event()
        timer = threading.Timer(limit_s, _end_late, [child, is_late])
        timer.start()
        try:
            code = self._process.stdout.readline()
        except BaseException:
            end_group(child)
            raise
        finally:
            timer.cancel()
        return int(code) if code and not is_late.is_set() else None

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def end_group(leader: int) -> None:
    """End a process that leads a group of its own, with the processes that it has started."""
    with contextlib.suppress(OSError):
        os.killpg(leader, signal.SIGKILL)


def _end_late(process: int, is_late: threading.Event) -> None:
    is_late.set()
    end_group(process)
