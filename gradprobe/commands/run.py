"""Runs a script or a module as python would, and records it.

The program keeps its arguments, its exit code and its traceback. The last line names the recording and the next command.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import importlib.util
import os
import runpy
import signal
import sys
import types
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError
from gradprobe.recording.store import SUFFIX

_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "gradprobe run [-h] [-o FILE] [--level LEVEL] [--include-torch] [--force] (SCRIPT | -m MODULE) [ARGS ...]"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the recording (NAME.PID.gradprobe)")
    parser.add_argument("--level", choices=("modes", "graph", "ops"), default="graph", help="how much (%(default)s)")
    parser.add_argument("--include-torch", action="store_true", help="show PyTorch's own blocks in reports")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="run a module")
    parser.add_argument("script", nargs=argparse.REMAINDER, metavar="SCRIPT", help="run a script")


def execute(options: argparse.Namespace) -> int:
    words = options.module if options.module is not None else options.script
    if not words:
        raise GradprobeError("there is nothing to run; name a script, or a module after -m")
    name, *arguments = words
    if options.module is not None:
        program, code = _module(name)
    else:
        program, code = _script(name)
    sys.argv[1:] = arguments
    stem = name.rpartition(".")[2] if options.module is not None else Path(name).stem
    output = options.output or Path(f"{stem}.{os.getpid()}{SUFFIX}")
    return _Watched(output, options).run(program, code)


class _Watched:
    def __init__(self, output: Path, options: argparse.Namespace) -> None:
        # Not at the top: the other verbs need no torch.
        try:
            from gradprobe.recorder import Recorder
        except ModuleNotFoundError as error:
            raise GradprobeError(f"there is no {error.name} in {sys.executable}; install it there first") from None
        self._output = output.absolute()
        self._shown = output
        self._recorder = Recorder(
            self._output, level=options.level, include_torch=options.include_torch, force=options.force
        )
        self._process = os.getpid()
        self._code = 0

    def run(self, program: types.ModuleType, code: Any) -> int:
        self._recorder.start()
        # The first to be registered is the last to be called: threads and handlers of the program come before.
        atexit.register(self._finish)
        sys.modules["__main__"] = program
        try:
            exec(code() if callable(code) else code, program.__dict__)
        except SystemExit as leaving:
            self._code = _exit_code(leaving)
            raise
        except KeyboardInterrupt as error:
            _show(error)
            self._code = 128 + signal.SIGINT
            atexit.unregister(self._finish)
            atexit.register(self._finish, interrupted=True)
        except BaseException as error:
            _show(error)
            self._code = 1
        return self._code

    def _finish(self, *, interrupted: bool = False) -> None:
        if os.getpid() != self._process:
            return
        with contextlib.suppress(GradprobeError):
            self._recorder.stop()
        failure = self._recorder.failure
        with contextlib.suppress(OSError, ValueError):
            if failure is None:
                print(f"gradprobe: recorded to {self._shown}; see: gradprobe report {self._shown}", file=sys.stderr)
            else:
                print(
                    f"gradprobe: {self._shown} is incomplete: {failure}; make room there, or name another place with -o",
                    file=sys.stderr,
                )
            sys.stdout.flush()
            sys.stderr.flush()
        if interrupted:
            # As python does: a shell must see that the program died of the signal.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        if failure is not None and self._code == 0:
            os._exit(2)


def _script(name: str) -> tuple[types.ModuleType, Any]:
    path = Path(name)
    if path.is_dir() or (path.is_file() and _is_archive(path)):
        return _prepare(path, "__main__")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise GradprobeError(f"cannot run {name}: {error.strerror}; name a script that is there and readable") from None
    program = types.ModuleType("__main__")
    full = os.path.abspath(name)
    program.__dict__.update(
        __file__=full, __loader__=SourceFileLoader("__main__", full), __builtins__=__builtins__, __cached__=None
    )
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(name))
    sys.argv[0] = name
    return program, lambda: compile(source, full, "exec", dont_inherit=True)


def _is_archive(path: Path) -> bool:
    import zipfile

    return zipfile.is_zipfile(path)


def _module(name: str) -> tuple[types.ModuleType, Any]:
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.getcwd()
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError) as error:
        raise GradprobeError(f"cannot run module {name}: {error}") from None
    if found is None:
        raise GradprobeError(
            f"cannot run module {name}: there is none by that name; is it installed in {sys.executable}?"
        )
    return _prepare(None, name)


def _prepare(path: Path | None, name: str) -> tuple[types.ModuleType, Any]:
    """The program behind a module's name, or behind the ``__main__`` in a folder or an archive."""
    if path is not None:
        sys.path[0] = str(path)
        sys.modules.pop("__main__", None)
    try:
        _, spec, code = runpy._get_module_details(name)  # type: ignore[attr-defined]
    except runpy._Error as error:  # type: ignore[attr-defined]
        raise GradprobeError(f"cannot run {path or name}: {error}") from None
    program = types.ModuleType("__main__")
    program.__dict__.update(
        __file__=spec.origin,
        __loader__=spec.loader,
        __package__=spec.parent,
        __spec__=spec,
        __cached__=spec.cached,
        __builtins__=__builtins__,
    )
    sys.argv[0] = str(path) if path is not None else spec.origin
    return program, code


def _exit_code(leaving: SystemExit) -> int:
    return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)


def _show(error: BaseException) -> None:
    """Shows an error that the program did not catch, as python would: by its hook, without our frames."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN):
        trace = trace.tb_next
    error.__traceback__ = trace
    sys.excepthook(type(error), error, trace)
