"""Execution of the program, as it is or with some text exchanged: scripts and pytest in forks of a process, or any command.

The user's files are never touched: changed text reaches the program through its imports.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path

from gradprobe.advice.fork_server import ForkServer, end_group
from gradprobe.advice.run_request import FIXED_VARIABLES, Outcome, RunRequest, read_modules, read_state
from gradprobe.advice.time_limits import TimeLimits
from gradprobe.errors import GradprobeError

_JUNIT_FILE = "tests.xml"
_USAGE_ERROR = 4
"""Exit code of pytest for a command line that it cannot read."""


class ProgramRunner:
    """Runner of one program, for as many runs as it takes.

    Args:
        words: The words of a command; with ``is_script``, a script and its arguments.
        is_script: Whether to run a script by itself, which shows its state too.
        own: Files and folders of the program.
        timeout_s: Maximum time of a run, and of all runs together that did not end, in seconds.
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
        self._words, self.own = list(words), list(own)
        self.limits = TimeLimits(timeout_s)
        self._preload = list(preload)
        self.is_script = is_script
        self._pytest_arguments = None if is_script else _read_pytest_arguments(self._words)
        if self._pytest_arguments is not None:
            self._preload.append("pytest")
        self._folder = tempfile.TemporaryDirectory(prefix="gradprobe-")
        self._server: ForkServer | None = None
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
        """Run the program once, with this text of some files, unless runs without an end have taken too long."""
        if self.limits.are_spent:
            return Outcome.without_end(self.limits.describe_spent(), Path(self._folder.name))
        self.runs += 1
        folder = Path(self._folder.name, str(self.runs))
        folder.mkdir()
        request = RunRequest(
            words=self._words,
            own=self.own,
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
        if code is None:
            return Outcome.without_end(self.limits.add_late(), folder)
        return self._read(folder, code, time.perf_counter() - began)

    def _run_forked(self, request: RunRequest) -> int | None:
        if self._server is None:
            self._server = ForkServer(self._preload)
        return self._server.run(request, self.limits.next_s)

    def _run_command(self, request: RunRequest, folder: Path) -> int | None:
        environment = {**os.environ, **request.variables(), **FIXED_VARIABLES, "PYTHONDONTWRITEBYTECODE": "1"}
        words = list(self._words)
        if _is_pytest(words):
            words += _list_options(folder, words)
        try:
            with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, start_new_session=True
                )
        except OSError as error:
            raise GradprobeError(f"cannot run {shlex.join(words)}: {error.strerror}; name another command") from None
        try:
            return process.wait(self.limits.next_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.returncode is None:
                end_group(process.pid)
                process.wait()

    def _read(self, folder: Path, code: int, seconds: float) -> Outcome:
        end = read_state(folder)
        read = {
            name: (folder / name).read_text(errors="replace") for name in ("out", "err") if (folder / name).exists()
        }
        return Outcome(
            lateness="",
            code=code,
            error=re.sub(r"0x[0-9a-f]+", "0x", end.get("error", "")),
            stdout=read.get("out", ""),
            stderr=read.get("err", ""),
            state={name: (tensors, plain) for name, (tensors, plain) in end.get("state", {}).items()},
            process=end.get("process", {}),
            seconds=seconds,
            tests=_read_tests(folder / _JUNIT_FILE),
            folder=folder,
            modules=read_modules(folder),
        )


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
