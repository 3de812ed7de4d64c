"""Execution of the program, as it is or with some text exchanged: scripts and pytest in forks of a process, or any command.

The user's files are never touched: changed text reaches the program through its imports.
"""

from __future__ import annotations

import contextlib
import importlib.util
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

from gradprobe._switch import RECORD_VARIABLE
from gradprobe.advice.run_request import Outcome, RunRequest, read_state
from gradprobe.errors import GradprobeError

_NO_END = -1_000
"""Exit code of a run that did not end in time."""
_FIXED_VARIABLES = {RECORD_VARIABLE: "", "PYTHONHASHSEED": "0"}
"""Variables that make runs comparable: a recording by the environment would make some of them slower."""
_JUNIT_FILE = "tests.xml"
_USAGE_ERROR = 4
"""Exit code of pytest for a command line that it cannot read."""


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
        self._pytest_arguments = None if is_script else _read_pytest_arguments(self._words)
        if self._pytest_arguments is not None:
            self._preload.append("pytest")
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
        if self._pytest_arguments is not None:
            request.words, request.is_pytest = [*self._pytest_arguments, *_list_options(folder, self._words)], True
        is_forked = self.is_script or request.is_pytest
        code = self._run_forked(request) if is_forked else self._run_command(request, folder)
        if request.is_pytest and code == _USAGE_ERROR:
            lines = (folder / "err").read_text(errors="replace").strip().splitlines()
            raise GradprobeError(
                f"cannot run {shlex.join(self._words)}: {lines[-1] if lines else 'usage error'}; mend it"
            )
        return self._read(folder, code, time.perf_counter() - began)

    def _run_forked(self, request: RunRequest) -> int:
        if self._server is None:
            self._server = _Server(self._timeout_s, self._preload)
        return self._server.run(request)

    def _run_command(self, request: RunRequest, folder: Path) -> int:
        environment = {**os.environ, **request.variables(), **_FIXED_VARIABLES}
        words = list(self._words)
        if _is_pytest(words):
            words += _list_options(folder, words)
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
            env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *others]), **_FIXED_VARIABLES},
        )

    def run(self, request: RunRequest) -> int:
        """Run a request and return the exit code, or -1 if it did not end in time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(request.to_json().encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise GradprobeError("cannot run the program: torch cannot be imported; see gradprobe debug")
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


def _read_pytest_arguments(words: Sequence[str]) -> list[str] | None:
    """Return the arguments of a command that runs pytest in this environment, or None for any other command."""
    is_here = words[0] in ("pytest", "py.test", "python", "python3", sys.executable)
    if not is_here or not _is_pytest(words) or importlib.util.find_spec("pytest") is None:
        return None
    return list(words[3:] if words[1:3] == ["-m", "pytest"] else words[1:])


def _list_options(folder: Path, words: Sequence[str]) -> list[str]:
    """Return the options of pytest for a run whose results are read, and which leaves nothing in the user's folder."""
    options = [f"--junitxml={folder / _JUNIT_FILE}", "-o", f"cache_dir={folder / 'cache'}", "-p", "no:randomly"]
    if _measures_coverage(words):
        options.append("--no-cov")  # it takes the trace function away
    return options


def _measures_coverage(words: Sequence[str]) -> bool:
    """Return whether pytest is asked for the coverage of the tests, on its command line or where it is configured."""
    files = [Path(name) for name in ("pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")]
    texts = [*words, os.environ.get("PYTEST_ADDOPTS", ""), *(file.read_text() for file in files if file.is_file())]
    return any("--cov" in text for text in texts)


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
