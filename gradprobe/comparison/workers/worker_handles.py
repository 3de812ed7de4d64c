"""Who measures: several fresh processes, or this one where the target cannot be taken to another."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, Final, Protocol

from gradprobe.comparison.measure.bench import Bench
from gradprobe.comparison.workloads.sources import WorkloadSource
from gradprobe.errors import GradprobeError

_MARK: Final = "GRADPROBE_MEASURING"
"""Set in the environment of a process that measures, and so in all that it starts."""


def check_not_measuring() -> None:
    """Refuses to start processes from one that measures: a module that compares when imported would start them forever."""
    if os.environ.get(_MARK):
        raise GradprobeError("it compares when it is imported; put that under if __name__ == '__main__':")


class WorkerDied(Exception):  # noqa: N818 -- no fault of the caller's
    """A process ended before it answered."""


class Worker(Protocol):
    """One process of the crew. ``ask`` calls a method of its bench; raises ``Lost`` or ``GradprobeError``."""

    def ask(self, verb: str, **values: Any) -> Any: ...

    def close(self) -> None: ...


class InProcessWorker:
    """The bench of this process."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def ask(self, verb: str, **values: Any) -> Any:
        return getattr(self._bench, verb)(**values)

    def close(self) -> None:
        """Puts back what the calls changed in this process."""
        self._bench.leave()


class SubprocessWorker:
    """A bench in a fresh process of this interpreter."""

    def __init__(
        self,
        number: int,
        *,
        modes: Sequence[str],
        seed: int,
        device: str | None = None,
        threads: int | None = None,
        command: Sequence[str] = (),
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """``command`` is what the interpreter is started by, ``variables`` are for its environment."""
        self._process = subprocess.Popen(
            [*command, sys.executable, "-m", "gradprobe.comparison.workers.worker_main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={
                **os.environ,
                _MARK: "1",
                "PYTHONPATH": os.pathsep.join(str(folder) for folder in sys.path if folder),
                **variables,
            },
            # A Ctrl-C reaches the process that compares, which then ends these and what they started.
            start_new_session=True,
        )
        self._send({"modes": list(modes), "seed": seed, "number": number, "device": device, "threads": threads})

    def started(self) -> int:
        """Waits until it is ready. The number of threads that torch uses there."""
        threads: int = self._receive()
        return threads

    def ask(self, verb: str, **values: Any) -> Any:
        if verb == "open":
            values = asdict(values["source"])
        self._send({"verb": verb, "values": values})
        return self._receive()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            print(json.dumps(message), file=self._process.stdin, flush=True)
        except OSError:
            raise WorkerDied(self._ended()) from None

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerDied(self._ended())
        answer = json.loads(line)
        if "error" in answer:
            raise GradprobeError(answer["error"])
        return answer["result"]

    def _ended(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"the process that measured it ended with exit code {code}"
        with contextlib.suppress(ValueError):
            return f"the process that measured it ended with {signal.Signals(-code).name}"
        return f"the process that measured it ended with signal {-code}"

    def kill(self) -> None:
        """Ends the process and what it started, whatever they do; who waits for its answer meets ``Lost``."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()

    def close(self) -> None:
        """Ends the process and lets go of it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self.kill()
        self._process.wait()


def open_sources(member: Worker, sources: Sequence[WorkloadSource]) -> list[str]:
    """The names of the workloads of all sources, opened there."""
    return [name for source in sources for name in member.ask("open", source=source)]
