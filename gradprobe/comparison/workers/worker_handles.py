"""Workers: fresh subprocesses, or the current process if the call cannot be pickled."""

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

from gradprobe._switch import RECORD_VARIABLE
from gradprobe.comparison.measure.bench import Bench
from gradprobe.comparison.measure.bench_protocol import WARM_UP_S, BenchProtocol, CountingPass, PreparationFacts
from gradprobe.comparison.workloads.sources import WorkloadSource
from gradprobe.errors import GradprobeError

_MARK: Final = "GRADPROBE_MEASURING"
"""Environment variable that is set in each worker process, and so in all processes that it starts."""


def check_not_measuring() -> None:
    """Raise ``GradprobeError`` in a worker: a module that compares when it is imported would start workers forever."""
    if os.environ.get(_MARK):
        raise GradprobeError(
            "cannot compare while the module is imported by a worker; put the call under if __name__ == '__main__':"
        )


class WorkerDied(Exception):  # noqa: N818 -- not a mistake of the caller
    """A worker process ended before it answered."""


class Worker(Protocol):
    """Process that measures. The methods of ``bench`` raise ``WorkerDied`` or ``GradprobeError``."""

    @property
    def bench(self) -> BenchProtocol:
        """Bench of the process."""
        ...

    def close(self) -> None:
        """Release the process."""
        ...


class InProcessWorker:
    """Bench of the current process."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def close(self) -> None:
        """Restore what the calls changed in this process."""
        self.bench.restore_all()


class SubprocessWorker:
    """Bench in a fresh process of this interpreter."""

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
        """Start the process. ``command`` is the prefix of its command line, ``variables`` extend its environment."""
        self._process = subprocess.Popen(
            [*command, sys.executable, "-m", "gradprobe.comparison.workers.worker_main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={
                **os.environ,
                _MARK: "1",
                RECORD_VARIABLE: "",  # a recording would be measured too
                "PYTHONPATH": os.pathsep.join(str(folder) for folder in sys.path if folder),
                **variables,
            },
            # Ctrl-C reaches the comparing process, which then ends the workers and the processes that they started.
            start_new_session=True,
        )
        self.bench: BenchProtocol = _RemoteBench(self)
        self._send({"modes": list(modes), "seed": seed, "number": number, "device": device, "threads": threads})

    def wait_until_ready(self) -> int:
        """Wait for the process to start and return its number of torch threads."""
        threads: int = self._receive()
        return threads

    def ask(self, method: str, **values: Any) -> Any:
        """Return the JSON form of what a method of the bench returns in the process."""
        self._send({"method": method, "values": values})
        return self._receive()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            print(json.dumps(message), file=self._process.stdin, flush=True)
        except OSError:
            raise WorkerDied(self._describe_end()) from None

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerDied(self._describe_end())
        answer = json.loads(line)
        if "error" in answer:
            raise GradprobeError(answer["error"])
        return answer["result"]

    def _describe_end(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"the worker process ended with exit code {code}"
        with contextlib.suppress(ValueError):
            return f"the worker process ended with {signal.Signals(-code).name}"
        return f"the worker process ended with signal {-code}"

    def kill(self) -> None:
        """End the process and the processes that it started. A pending request then raises ``WorkerDied``."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()

    def close(self) -> None:
        """End the process and wait for it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self.kill()
        self._process.wait()


class _RemoteBench:
    """Typed requests to the bench of a subprocess."""

    def __init__(self, worker: SubprocessWorker) -> None:
        self._worker = worker

    def open(self, source: WorkloadSource) -> list[str]:
        names: list[str] = self._worker.ask("open", source=asdict(source))
        return names

    def add_mixtures(self, count: int) -> list[str]:
        names: list[str] = self._worker.ask("add_mixtures", count=count)
        return names

    def prepare(self, name: str, *, warm_up_s: float = WARM_UP_S, to_time: bool = True) -> PreparationFacts:
        return PreparationFacts.from_json(self._worker.ask("prepare", name=name, warm_up_s=warm_up_s, to_time=to_time))

    def measure(self, name: str, *, seconds: float, rounds: int = 1) -> dict[str, list[float]]:
        times: dict[str, list[float]] = self._worker.ask("measure", name=name, seconds=seconds, rounds=rounds)
        return times

    def managers(self, *, seconds: float) -> dict[str, list[float]]:
        times: dict[str, list[float]] = self._worker.ask("managers", seconds=seconds)
        return times

    def mechanisms(self, name: str) -> CountingPass:
        return CountingPass(**self._worker.ask("mechanisms", name=name))

    def account(self, name: str) -> CountingPass:
        return CountingPass(**self._worker.ask("account", name=name))

    def issued(self, name: str) -> float | None:
        share: float | None = self._worker.ask("issued", name=name)
        return share

    def instructions(self, name: str, folder: str) -> dict[str, float]:
        counts: dict[str, float] = self._worker.ask("instructions", name=name, folder=folder)
        return counts


def open_sources(worker: Worker, sources: Sequence[WorkloadSource]) -> list[str]:
    """Open all sources in a worker and return the names of their workloads."""
    return [name for source in sources for name in worker.bench.open(source)]
