"""Execution of the user's program, as it is or with some text exchanged: a script in forks of one process, or any command.

The user's files are never touched: changed text reaches the program through its imports.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path

from gradprobe.advice.run_request import REQUEST_VARIABLE, Outcome, RunRequest, read_state
from gradprobe.errors import GradprobeError
from gradprobe.subprocesses.follow_request import BOOT_FOLDER

_NO_END = -1_000
"""Exit code of a run that did not end in time."""
_JUNIT_FILE = "tests.xml"


class ProgramRunner:
    """Runner of one program, for as many runs as it takes.

    Args:
        words: The words of a command; with ``is_script``, a script and its arguments.
        is_script: Whether to run a script by itself, which shows its state too.
        own: Files and folders of the program.
        timeout_s: Maximum time of a run, in seconds.
        preload: Modules that the program's runs would each import for themselves.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        is_script: bool,
        own: Sequence[str],
        timeout_s: float,
        preload: Sequence[str] = (),
    ) -> None:
        self._words, self._own, self._timeout_s = list(words), list(own), timeout_s
        self._preload = list(preload)
        self.is_script = is_script
        self._folder = tempfile.TemporaryDirectory(prefix="gradprobe-")
        self._server: _Server | None = None
        self.runs = 0

    def close(self) -> None:
        """End the process that runs are forked from, and remove what runs have written."""
        if self._server is not None:
            self._server.close()
        self._folder.cleanup()

    def __enter__(self) -> ProgramRunner:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def run(
        self,
        texts: Mapping[str, str] | None = None,
        *,
        watched: bool = False,
        timed: bool = False,
        edges: Sequence[tuple[str, int]] = (),
    ) -> Outcome:
        """Run the program once, with this text of some files."""
        self.runs += 1
        folder = Path(self._folder.name, str(self.runs))
        folder.mkdir()
        request = RunRequest(
            words=self._words,
            own=self._own,
            folder=str(folder),
            texts=dict(texts or {}),
            is_watched=watched,
            is_timed=timed,
            edges=list(edges),
            cwd=os.getcwd(),
        )
        began = time.perf_counter()
        code = self._run_script(request) if self.is_script else self._run_command(request, folder)
        return self._read(folder, code, time.perf_counter() - began)

    def _run_script(self, request: RunRequest) -> int:
        if self._server is None:
            self._server = _Server(self._timeout_s, self._preload)
        return self._server.run(request)

    def _run_command(self, request: RunRequest, folder: Path) -> int:
        others = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([BOOT_FOLDER, *others]),
            "PYTHONHASHSEED": "0",
            REQUEST_VARIABLE: request.to_json(),
        }
        words = list(self._words)
        if _is_pytest(words):
            words += [f"--junitxml={folder / _JUNIT_FILE}", "-p", "no:cacheprovider", "-p", "no:randomly"]
        try:
            with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
                ended = subprocess.run(
                    words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, timeout=self._timeout_s
                )
        except subprocess.TimeoutExpired:
            return _NO_END
        except OSError as error:
            raise GradprobeError(f"cannot run {shlex.join(words)}: {error.strerror}; name another command") from None
        return ended.returncode

    def _read(self, folder: Path, code: int, seconds: float) -> Outcome:
        end = read_state(folder)
        read = {
            name: (folder / name).read_text(errors="replace") for name in ("out", "err") if (folder / name).exists()
        }
        return Outcome(
            is_late=code == _NO_END,
            code=code,
            error=re.sub(r"0x[0-9a-f]+", "0x", end.get("error", "")),
            stdout=read.get("out", ""),
            stderr=read.get("err", ""),
            state={name: (tensors, plain) for name, (tensors, plain) in end.get("state", {}).items()},
            process=end.get("process", {}),
            seconds=end.get("seconds", seconds),
            tests=_read_tests(folder / _JUNIT_FILE),
            folder=folder,
        )


class _Server:
    """The process that scripts are forked from."""

    def __init__(self, timeout_s: float, preload: Sequence[str]) -> None:
        self._timeout_s = timeout_s
        root = RunRequest([], [], "").root
        others = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gradprobe.advice.watched_process", *preload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *others]), "PYTHONHASHSEED": "0"},
        )

    def run(self, request: RunRequest) -> int:
        """Run a request and return the exit code, or -1 if it did not end in time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(request.to_json().encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise GradprobeError("cannot run the script: torch cannot be imported; see gradprobe debug")
        is_late = threading.Event()
        timer = threading.Timer(self._timeout_s, _kill, [int(answer), is_late])
        timer.start()
        try:
            code = int(self._process.stdout.readline() or _NO_END)
        finally:
            timer.cancel()
        return _NO_END if is_late.is_set() else code

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def _kill(process: int, is_late: threading.Event) -> None:
    is_late.set()
    with contextlib.suppress(OSError):
        os.kill(process, signal.SIGKILL)


def _is_pytest(words: Sequence[str]) -> bool:
    names = [Path(word).name for word in words[:3]]
    return names[0] in ("pytest", "py.test") or names[1:3] == ["-m", "pytest"]


def _read_tests(file: Path) -> dict[str, str]:
    """Return the result of each test, with its first line if it failed."""
    if not file.exists():
        return {}
    results: dict[str, str] = {}
    try:
        cases = list(xml.etree.ElementTree.parse(file).iter("testcase"))
    except xml.etree.ElementTree.ParseError:
        return {}
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        parts = [
            f"{part.tag}: {part.get('message', '')[:200]}"
            for part in case
            if part.tag in ("failure", "error", "skipped")
        ]
        results[name] = re.sub(r"0x[0-9a-f]+", "0x", "; ".join(parts)) or "passed"
    return results
