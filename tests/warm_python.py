"""``python WORDS`` without the seconds that the import of torch takes: a fork of a process that has torch already.

The process that is forked, one for each process of pytest, has imported torch, pandas and other packages, and nothing of
gradprobe: it has run no operator and has one thread. A fork of it then becomes what ``python`` makes of the words. It ends
as an interpreter does, but after the last exit handler it leaves its modules to the system: to take them apart takes longer
than most programs of tests. Tests in which it matters what is imported when, or how an interpreter starts or takes itself
apart, run ``python`` itself.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

PATIENCE_S = 300
"""Enough for a busy machine; reaching it means a deadlock."""

IS_POSSIBLE = hasattr(os, "fork")


def run(
    *words: str, cwd: Path, stdin: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Return the end of ``python WORDS``: ``-c``, ``-m`` or a script, perhaps after ``-W`` options."""
    surroundings = dict(os.environ if env is None else env)
    if not IS_POSSIBLE:
        return subprocess.run(
            [sys.executable, *words],
            cwd=cwd,
            input=stdin.encode(),
            env=surroundings,
            capture_output=True,
            timeout=PATIENCE_S,
        )
    with tempfile.TemporaryDirectory() as place:
        streams = [os.path.join(place, name) for name in ("in", "out", "err")]
        Path(streams[0]).write_bytes(stdin.encode())
        status = _server().ask({"words": words, "cwd": str(cwd), "env": surroundings, "streams": streams})
        out, err = (Path(name).read_bytes() for name in streams[1:])
    return subprocess.CompletedProcess([sys.executable, *words], os.waitstatus_to_exitcode(status), out, err)


class _Server:
    """The process that is forked, as its client sees it."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *_given_path()])}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm_python"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        atexit.register(self._process.kill)

    def ask(self, request: dict[str, Any]) -> int:
        """Return the exit status of the process that ``request`` describes; kill it if it takes too long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        with _killed_after(child, PATIENCE_S):
            return int(self._process.stdout.readline())


@cache
def _server() -> _Server:
    return _Server()


def _given_path() -> list[str]:
    return [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]


@contextlib.contextmanager
def _killed_after(child: int, seconds: float) -> Any:
    import threading

    timer = threading.Timer(seconds, os.kill, (child, signal.SIGKILL))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def serve(requests: IO[bytes], answers: IO[bytes]) -> dict[str, Any] | None:
    """Fork for each request; return it in the child, and None in this process once there are no more."""
    for line in requests:
        child = os.fork()
        if child == 0:
            found: dict[str, Any] = json.loads(line)
            return found
        answers.write(b"%d\n" % child)
        answers.flush()
        _, status = os.waitpid(child, 0)
        answers.write(b"%d\n" % status)
        answers.flush()
    return None


def become(request: dict[str, Any]) -> list[str]:
    """Take over folder, environment, streams and options of ``request``; return the words that say what to run."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for number, path in enumerate(request["streams"]):
        opened = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1, errors="backslashreplace")  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    words = list(request["words"])
    while words[0].startswith("-W"):
        option = words.pop(0)[2:] or words.pop(0)
        sys.warnoptions.append(option)
        import warnings

        warnings._processoptions([option])  # type: ignore[attr-defined]
    path = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.path[:] = [*path, *(part for part in sys.path[1:] if part not in path)]
    return words


def start(words: list[str]) -> None:
    """Run ``words`` as the main program of this interpreter."""
    import runpy

    main = types.ModuleType("__main__")
    main.__dict__.update(__builtins__=__builtins__, __annotations__={}, __file__=None)
    sys.modules["__main__"] = main
    kind, *others = words
    if kind == "-m":
        sys.argv = [*others]
        sys.path.insert(0, os.getcwd())
        runpy._run_module_as_main(others[0])  # type: ignore[attr-defined]
    elif kind == "-c":
        del main.__file__
        sys.argv = ["-c", *others[1:]]
        sys.path.insert(0, "")
        exec(compile(others[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = [*words]
        sys.path.insert(0, os.path.dirname(os.path.abspath(kind)))
        main.__file__ = os.path.abspath(kind)
        exec(compile(Path(kind).read_bytes(), main.__file__, "exec"), main.__dict__)


_status: list[int] = []
"""The exit status of this process, once its program has come to its end."""


def _run(words: list[str]) -> None:
    try:
        start(words)
    except SystemExit as leaving:
        code = leaving.code
        _status.append(code & 0xFF if isinstance(code, int) else int(code is not None))
        raise
    except KeyboardInterrupt:
        raise  # a signal is what ends such an interpreter
    except BaseException:
        _status.append(1)
        raise
    _status.append(0)


def _leave() -> None:
    """End this process; as the first exit handler that was registered it is the last one that is called."""
    if _status:
        with contextlib.suppress(Exception):  # an interpreter that cannot flush has a status of its own
            for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
                if stream is not None:
                    stream.flush()
            os._exit(_status[-1])


def _show_from_the_program_on(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, "<frozen runpy>"):
        trace = trace.tb_next
    sys.__excepthook__(kind, error.with_traceback(trace), trace)


if __name__ == "__main__":
    atexit.register(_leave)
    import gc

    import jinja2  # noqa: F401
    import numpy  # noqa: F401
    import pandas  # noqa: F401
    import pytest  # noqa: F401
    import tabulate  # noqa: F401
    import torch  # noqa: F401
    import tqdm  # noqa: F401

    gc.collect()
    gc.freeze()  # else each child copies the pages of all objects as soon as it collects
    request = serve(sys.stdin.buffer, os.fdopen(os.dup(1), "wb"))
    if request is not None:
        sys.excepthook = _show_from_the_program_on
        _run(become(request))
