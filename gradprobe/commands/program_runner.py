"""Execution of a script or a module exactly as python would execute it."""

from __future__ import annotations

import builtins
import importlib.util
import os
import pkgutil
import runpy
import sys
import types
from collections.abc import Callable
from importlib.machinery import SourceFileLoader, SourcelessFileLoader
from pathlib import Path
from typing import Any

from gradprobe.commands.exit_report import ExitReport, print_to_stderr
from gradprobe.errors import GradprobeError


def make_main_module() -> types.ModuleType:
    """Make an empty ``__main__`` module for the program."""
    program = types.ModuleType("__main__")
    if "__annotations__" in vars(sys.modules["__main__"]):
        vars(program)["__annotations__"] = {}
    vars(program)["__builtins__"] = builtins  # in other modules than this one the name stands for its dictionary
    return program


def prepare_script(name: str, program: types.ModuleType) -> Callable[[], None]:
    """Return a function that runs a script, or the ``__main__`` of a folder or an archive.

    None of the program's code runs before that function is called.
    """
    importer: Any = pkgutil.get_importer(os.path.abspath(name))
    if importer is not None:
        if importer.find_spec("__main__") is None:
            raise GradprobeError(f"cannot run {name}: it has no __main__.py; name a script")
        _put_first_on_path(os.path.abspath(name), always=True)
        return lambda: _run_as_main("__main__", is_module=False)
    full = os.path.abspath(name)
    try:
        source = Path(name).read_bytes()
    except OSError as error:
        raise GradprobeError(f"cannot run {name}: {error.strerror}; name a script that is there and readable") from None
    loader: SourceFileLoader | SourcelessFileLoader
    compiled: types.CodeType | None = None
    if name.endswith(".pyc"):
        loader = SourcelessFileLoader("__main__", full)
        try:
            compiled = loader.get_code("__main__")
        except (ImportError, EOFError, ValueError) as error:
            raise GradprobeError(f"cannot run {name}: {error}; compile it again with {sys.executable}") from None
    else:
        loader = SourceFileLoader("__main__", full)
    vars(program).update(__file__=full, __loader__=loader, __cached__=None)
    _put_first_on_path(os.path.dirname(os.path.realpath(name)))

    return lambda: exec(compiled or compile(source, full, "exec", dont_inherit=True), vars(program))


def prepare_module(name: str) -> Callable[[], None]:
    """Return a function that runs a module.

    The package of the module is imported by that function; here only its name is looked up.
    """
    _put_first_on_path(os.getcwd())
    try:
        found = importlib.util.find_spec(name.partition(".")[0])
    except (ImportError, ValueError, AttributeError) as error:
        raise GradprobeError(f"cannot run module {name}: {error}; name a module after -m") from None
    if found is None:
        raise GradprobeError(f"cannot run module {name}: it is not installed for {sys.executable}; install it there")
    return lambda: _run_as_main(name, is_module=True)


def run_program(start: Callable[[], None], ending: ExitReport) -> int:
    """Run the program by ``start``, show the exception that it did not catch, and return its exit code."""
    uncaught: BaseException
    try:
        start()
    except SystemExit as leaving:
        if isinstance(leaving.__context__, runpy._Error):  # type: ignore[attr-defined]
            ending.discard()
            raise GradprobeError(f"cannot run the module: {leaving.__context__}; name another one after -m") from None
        ending.code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        raise
    except BaseException as error:
        ending.annotate_exception(error)
        uncaught = error
    else:
        return 0
    ending.code = 1
    # Out here no exception is being handled, which is what an exception hook expects.
    _show_uncaught(uncaught)
    if isinstance(uncaught, KeyboardInterrupt):
        # The interpreter then dies of the signal, which makes a shell stop too.
        original = sys.excepthook

        def skip_once(*_: object) -> None:
            sys.excepthook = original

        sys.excepthook = skip_once
        raise uncaught
    return 1


def _run_as_main(name: str, *, is_module: bool) -> None:
    if is_module:
        sys.argv[0] = "-m"
    runpy._run_module_as_main(name, is_module)  # type: ignore[attr-defined]


def _put_first_on_path(folder: str, *, always: bool = False) -> None:
    """Put ``folder`` first on the path, where python puts a program's folder, in place of gradprobe's."""
    has_entry_of_gradprobe = not (getattr(sys.flags, "safe_path", False) or sys.flags.isolated)
    if has_entry_of_gradprobe:
        sys.path[0] = folder
    elif always:
        sys.path.insert(0, folder)


def _show_uncaught(error: BaseException) -> None:
    """Show an uncaught exception as python would: by the exception hook, without frames of gradprobe."""
    trace = _strip_own_frames(error)
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    failed: BaseException
    try:
        sys.excepthook(type(error), error, trace)
    except SystemExit:
        raise
    except BaseException as second:
        failed = second
    else:
        return
    print_to_stderr("Error in sys.excepthook:")
    sys.__excepthook__(type(failed), failed, _strip_own_frames(failed))
    print_to_stderr("\nOriginal exception was:")
    sys.__excepthook__(type(error), error, trace)


def _strip_own_frames(error: BaseException) -> types.TracebackType | None:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    error.__traceback__ = trace
    return trace
