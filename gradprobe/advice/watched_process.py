"""The process that runs the user's program: installs what watches it, runs it, and writes what it left.

Started as a server, it imports torch once and runs each request in a fork of itself, which has run no operator. A process
of a test command gets here by way of ``sitecustomize``.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
import types
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from gradprobe.advice.block_edges import BlockEdges
from gradprobe.advice.block_timer import BlockTimer
from gradprobe.advice.line_trace import LineTracer, number_parts
from gradprobe.advice.run_request import (
    LINES_FILE,
    MODULES_FILE,
    RECORDING_STEM,
    REQUEST_VARIABLE,
    STATE_FILE,
    TIMES_FILE,
    RunRequest,
)
from gradprobe.advice.source_hook import MARK, SourceHook
from gradprobe.advice.survivors import SurvivorSearch
from gradprobe.capture.patching.post_import import PostImportHook


def serve() -> None:
    """Run each request that arrives as a line of JSON in a fork, and answer with its exit status."""
    import torch  # noqa: F401  so that no fork has to

    import gradprobe.advice.program_state
    import gradprobe.recorder  # noqa: F401

    for name in sys.argv[1:]:
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with its input
    for line in sys.stdin:
        request = RunRequest.from_json(line)
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)  # to be ended with all that the program starts
            signal.signal(signal.SIGINT, signal.default_int_handler)
            run_forked(request)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


class Watch:
    """Watch on one process: changed text, lines, survivors, operators, times."""

    def __init__(self, request: RunRequest) -> None:
        self._request = request
        self._folder = Path(request.folder)
        self._own = tuple(request.own)
        self._tracer: LineTracer | None = None
        if request.is_watched:
            edges = BlockEdges((file, line) for file, line in request.edges)
            self._tracer = LineTracer(self._folder / LINES_FILE, self.is_own_file, edges)
        self._recorder: Any = None
        self._torch_hook = PostImportHook("torch", self._begin_with_torch)

    def is_own_file(self, file: str) -> bool:
        """Return whether a file belongs to the program."""
        return file.startswith(self._own)

    def start(self) -> None:
        """Begin watching."""
        timer = None
        if self._request.is_timed:
            timer = BlockTimer(self._folder / TIMES_FILE)
        setattr(builtins, MARK, timer)
        SourceHook(self._request.texts, number_parts if self._tracer is not None else None).install()
        self._torch_hook.begin()
        if self._tracer is not None:
            self._tracer.start()

    def stop(self) -> None:
        """Stop watching, so that what reads the state is not seen."""
        if self._tracer is not None:
            self._tracer.stop()
        if self._recorder is not None:
            with contextlib.suppress(Exception):
                self._recorder.stop()

    def _begin_with_torch(self) -> None:
        import torch

        random.seed(0)
        torch.manual_seed(0)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(0)
        if self._tracer is None:
            return
        try:
            from gradprobe.recorder import Recorder

            self._recorder = Recorder(
                self._folder / f"{RECORDING_STEM}.{os.getpid()}.gradprobe", level="ops", overwrite=True
            )
            self._recorder.start()
        except Exception:
            self._recorder = None  # the evidence then has fewer lines
        SurvivorSearch(self._tracer.write, self.is_own_file, self._tracer.note_exit).install()


def run_forked(request: RunRequest) -> None:
    """Run the script or the tests of a request in this process, write what they left, and end the process."""
    folder = Path(request.folder)
    os.chdir(request.cwd)
    _redirect(folder)
    os.environ.update(request.variables())  # for the processes that the program starts
    sys.dont_write_bytecode = True  # the text of a file may change within the resolution of its time
    watch = Watch(request)
    code, error = 0, ""
    execute, variables = _prepare_pytest(request) if request.is_pytest else _prepare_script(request)
    gc.collect()
    watch.start()
    began = time.perf_counter()
    try:
        execute()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException as failure:
        code, error = 1, describe_error(failure)
        traceback.print_exc()
    seconds = time.perf_counter() - began
    watch.stop()
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    (folder / MODULES_FILE).write_text(json.dumps(sorted(f for f in files if isinstance(f, str) and f.endswith(".py"))))
    if not request.is_pytest:
        write_end(request, watch, variables, code, error, seconds)
    _leave(code)


def _redirect(folder: Path) -> None:
    """Let the streams of this process be files in a folder."""
    for name, descriptor, flags in (
        ("in", 0, os.O_RDONLY | os.O_CREAT),
        ("out", 1, os.O_WRONLY | os.O_CREAT),
        ("err", 2, os.O_WRONLY | os.O_CREAT),
    ):
        os.dup2(os.open(folder / name, flags, 0o644), descriptor)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")


def _prepare_script(request: RunRequest) -> tuple[Callable[[], None], dict[str, object]]:
    """Return what runs a script as the main program, and the variables that it will have."""
    script = os.path.abspath(request.words[0])
    program = types.ModuleType("__main__")
    vars(program).update(
        __builtins__=builtins, __file__=script, __cached__=None, __loader__=SourceFileLoader("__main__", script)
    )
    sys.path[0] = os.path.dirname(os.path.realpath(script))
    sys.argv = list(request.words)
    sys.modules["__main__"] = program

    def execute() -> None:
        exec(compile(Path(script).read_bytes(), script, "exec", dont_inherit=True), vars(program))

    return execute, vars(program)


def _prepare_pytest(request: RunRequest) -> tuple[Callable[[], None], dict[str, object]]:
    """Return what runs pytest as its command does."""
    import pytest

    # pytest warns of plugins that were imported before it could rewrite their assertions, unless they ask it not to.
    vars(sys.modules["gradprobe"])["__doc__"] = "PYTEST_DONT_REWRITE"
    sys.path[0] = request.cwd
    sys.argv = ["pytest", *request.words]
    return lambda: sys.exit(int(pytest.main(list(request.words)))), {}


def write_end(
    request: RunRequest, watch: Watch, variables: dict[str, object], code: int, error: str, seconds: float
) -> None:
    """Write the state that the program left."""
    from gradprobe.advice.program_state import StateReader, read_global_state

    process, state = read_global_state(), {}
    import torch

    torch._C._set_grad_enabled(True)
    own_modules = {
        name: vars(module)
        for name, module in list(sys.modules.items())
        if name != "__main__" and watch.is_own_file(getattr(module, "__file__", None) or "")
    }
    reader = StateReader(lambda name: name in own_modules or name in ("__main__", "__mp_main__"))
    for name, inside in [("", variables), *sorted(own_modules.items())]:
        for variable, hashes in reader.read(inside).items():
            state[f"{name}.{variable}" if name else variable] = hashes
    end = {"code": code, "error": error, "seconds": seconds, "state": state, "process": process}
    (Path(request.folder) / STATE_FILE).write_text(json.dumps(end))


def describe_error(error: BaseException) -> str:
    """Return the type of an exception and the first line of its message."""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text[:300]}"


def follow_command() -> None:
    """Watch this process, which is one of a test command; called as the interpreter starts."""
    text = os.environ.get(REQUEST_VARIABLE)
    if text:
        Watch(RunRequest.from_json(text)).start()


def _leave(code: int) -> None:
    """End as an interpreter does, but leave the modules to the system."""
    import atexit
    import threading

    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    serve()
