"""Runs a script or a module as python would, and records it.

The program keeps its arguments, its exit code and its traceback. The last line names the recording and the next command.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import importlib.util
import os
import pkgutil
import runpy
import shlex
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from importlib.machinery import SourceFileLoader, SourcelessFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradprobe._files import check_writable, clear_path
from gradprobe.errors import GradprobeError
from gradprobe.recording.sqlite_file import SUFFIX
from gradprobe.subprocesses.follow_request import FollowRequest, find_child_files, make_stem

if TYPE_CHECKING:
    from gradprobe.recorder import Recorder
    from gradprobe.subprocesses.follower import Follower


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "gradprobe run [-h] [-o FILE] [--level LEVEL] [--html FILE] [--follow] [--include-torch] [--profiler-ranges] "
        "[--force] (SCRIPT | -m MODULE) [ARGS ...]"
    )
    # The program's own options must not be taken for beginnings of these.
    parser.allow_abbrev = False
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the recording (NAME.PID.gradprobe)")
    parser.add_argument("--level", choices=("modes", "graph", "ops"), default="graph", help="how much (%(default)s)")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write the report as well, once the program has ended"
    )
    parser.add_argument(
        "--follow", action="store_true", help="record the Python processes that it starts too, in files beside FILE"
    )
    parser.add_argument("--include-torch", action="store_true", help="show PyTorch's own blocks in reports")
    parser.add_argument(
        "--profiler-ranges", action="store_true", help="name blocks in what the program's torch.profiler records"
    )
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="run a module")
    parser.add_argument("script", nargs=argparse.REMAINDER, metavar="SCRIPT", help="run a script")


def execute(options: argparse.Namespace) -> int:
    # "-mMODULE" in one word leaves the arguments to the other list.
    words = [*(options.module or ()), *options.script]
    if options.module is None and words[:1] == ["--"]:
        del words[0]
    if not words:
        raise GradprobeError("there is nothing to run; name a script, or a module after -m")
    ending = _Ending()
    # Registered before torch and all that it imports, this is called after the handlers of all of them.
    atexit.register(ending)
    # Imported before the program's folder comes first on the path, where a file may have the name of a library. Not at
    # the top of this file: the other verbs need no torch.
    try:
        from gradprobe.recorder import Recorder
    except ModuleNotFoundError as error:
        raise GradprobeError(f"there is no {error.name} in {sys.executable}; install it there first") from None
    name, *arguments = words
    program = types.ModuleType("__main__")
    vars(program)["__builtins__"] = __builtins__
    if "__annotations__" in vars(sys.modules["__main__"]):
        vars(program)["__annotations__"] = {}
    start = _module(name) if options.module is not None else _script(name, program)
    stem = name.rpartition(".")[2] if options.module is not None else Path(os.path.abspath(name)).stem
    output: Path = _of_this_rank(options.output or Path(f"{stem}.{os.getpid()}{SUFFIX}"))
    html: Path | None = options.html and _of_this_rank(options.html)
    with contextlib.suppress(OSError):
        if os.path.samefile(output, name):
            raise GradprobeError(f"{output} is the program itself; name another file after -o")
    if html is not None:
        if html.suffix != ".html":
            raise GradprobeError(f"{html}: a report of HTML is written to a file that ends in .html; name one")
        check_writable(html, force=options.force)
    if options.follow:
        for earlier in find_child_files(output):
            clear_path(earlier, force=options.force)
    sys.argv = [name, *arguments]
    recorder = Recorder(
        output.absolute(),
        level=options.level,
        include_torch=options.include_torch,
        force=options.force,
        profiler_ranges=options.profiler_ranges,
    )
    recorder.start()
    ending.expect(recorder, output, html)
    if options.follow:
        ending.follow(options.level, include_torch=options.include_torch)
    sys.modules["__main__"] = program
    code = _run(start, ending)
    if options.module is None:
        # As python does once a script has ended, unless by sys.exit: its threads and exit handlers may notice.
        for key in ("__file__", "__cached__"):
            vars(program).pop(key, None)
    return code


def _run(start: Callable[[], None], ending: _Ending) -> int:
    uncaught: BaseException
    try:
        start()
    except SystemExit as leaving:
        if isinstance(leaving.__context__, runpy._Error):  # type: ignore[attr-defined]
            ending.discard()
            raise GradprobeError(f"cannot run it: {leaving.__context__}; name another after -m") from None
        ending.code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        raise
    except BaseException as error:
        ending.annotate_exception(error)
        uncaught = error
    else:
        return 0
    ending.code = 1
    # Out here no exception is being handled, which is how an exception hook finds it.
    _show(uncaught)
    if isinstance(uncaught, KeyboardInterrupt):
        # The interpreter then dies of the signal, which is what tells a shell to stop too.
        silenced = sys.excepthook

        def shown_already(*_: object) -> None:
            sys.excepthook = silenced

        sys.excepthook = shown_already
        raise uncaught
    return 1


def _show(error: BaseException) -> None:
    """Shows an error that the program did not catch, as python would: by its hook, without our frames."""
    trace = _without_ours(error)
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
    _say("Error in sys.excepthook:")
    sys.__excepthook__(type(failed), failed, _without_ours(failed))
    _say("\nOriginal exception was:")
    sys.__excepthook__(type(error), error, trace)


def _without_ours(error: BaseException) -> types.TracebackType | None:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    error.__traceback__ = trace
    return trace


def _of_this_rank(path: Path) -> Path:
    """``path``, with the rank in its name where several processes of one job are started alike."""
    rank = os.environ.get("RANK", "")
    if not rank.isdecimal() or os.environ.get("WORLD_SIZE", "1") == "1":
        return path
    return path.with_name(f"{path.stem}.rank{rank}{path.suffix}")


class _Ending:
    """What is done when the program has ended, its threads and exit handlers included."""

    def __init__(self) -> None:
        self.code = 0
        self._process = os.getpid()
        self._recorder: Recorder | None = None
        self._output = self._shown = Path()
        self._html: Path | None = None
        self._folder = os.getcwd()
        self._follower: Follower | None = None

    def expect(self, recorder: Recorder, output: Path, html: Path | None) -> None:
        self._recorder, self._output, self._shown, self._html = recorder, output.absolute(), output, html
        # Registered before any handler of the program, this is called after them: they are recorded too.
        atexit.register(self._stop)

    def follow(self, level: str, *, include_torch: bool) -> None:
        """Processes that this one starts are recorded too."""
        from gradprobe.subprocesses.follower import Follower

        assert self._recorder is not None
        asked = FollowRequest(make_stem(self._output), level, include_torch, self._process)
        self._follower = Follower(self._recorder, asked)
        self._follower.start()

    def annotate_exception(self, error: BaseException) -> None:
        """The program ends in ``error``."""
        if self._recorder is not None and os.getpid() == self._process:
            self._recorder._annotate_exception(error)

    def _stop(self) -> None:
        if self._recorder is not None and os.getpid() == self._process:
            if self._follower is not None:
                self._follower.stop()
            with contextlib.suppress(GradprobeError), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is wrong is said at the very end
                self._recorder.stop()

    def discard(self) -> None:
        """Nothing was run: the recording goes."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.stop()
            self._output.unlink(missing_ok=True)

    def __call__(self) -> None:
        if self._recorder is None or os.getpid() != self._process:
            return
        failure = self._recorder._failure
        if not self._output.exists():
            problem = "is gone: it was removed or renamed while it was recorded; record again"
        elif failure is not None:
            problem = f"is incomplete: {failure}; free some space there, or name another place with -o"
        else:
            problem = None
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        shown = shlex.quote(str(self._shown))
        if problem is None:
            children = find_child_files(self._output) if self._follower is not None else []
            more = f" and {len(children)} more" if children else ""
            if _of_this_rank(self._output) != self._output:
                shown = shown.replace(f".rank{os.environ['RANK']}", ".rank*")
            files = [shown, *(shlex.quote(os.path.relpath(path, self._folder)) for path in children)]
            _say(f"gradprobe: recorded to {self._shown}{more}; see: gradprobe report {' '.join(files)}")
            problem = self._report()
        if problem is None:
            return
        _say(f"gradprobe: {self._shown} {problem}")
        if self.code == 0:
            os._exit(2)

    def _report(self) -> str | None:
        """Writes the report that was asked for; what went wrong, or None.

        Another process does it: in this one the program may have changed anything.
        """
        if self._html is None:
            return None
        children = find_child_files(self._output) if self._follower is not None else []
        words = ["report", "--force", *map(str, [self._output, *children]), "-o", str(self._html)]
        try:
            command = [sys.executable, "-m", "gradprobe", *words]
            ended = subprocess.run(command, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        except OSError as error:
            return f"is recorded, but {self._html} could not be written: {error.strerror}"
        if ended.returncode == 0:
            _say(f"gradprobe: wrote {self._html}")
            return None
        told = ended.stderr.decode(errors="backslashreplace").strip().splitlines()
        return f"is recorded, but {self._html} could not be written: {told[-1] if told else 'no reason given'}"


def _say(line: str) -> None:
    # Not sys.stderr: the program may have put something else there.
    if sys.__stderr__ is not None:
        with contextlib.suppress(OSError, ValueError):
            print(line, file=sys.__stderr__, flush=True)


def _script(name: str, program: types.ModuleType) -> Callable[[], None]:
    """What starts a script, or the ``__main__`` in a folder or an archive. Nothing of it has run when this returns."""
    importer: Any = pkgutil.get_importer(os.path.abspath(name))
    if importer is not None:
        if importer.find_spec("__main__") is None:
            raise GradprobeError(f"cannot run {name}: there is no __main__.py in it; name a script")
        _go_first(os.path.abspath(name), always=True)
        return lambda: _as_main("__main__", is_module=False)
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
            raise GradprobeError(f"cannot run {name}: {error}; compile it anew with {sys.executable}") from None
    else:
        loader = SourceFileLoader("__main__", full)
    vars(program).update(__file__=full, __loader__=loader, __cached__=None)
    _go_first(os.path.dirname(os.path.realpath(name)))

    return lambda: exec(compiled or compile(source, full, "exec", dont_inherit=True), vars(program))


def _module(name: str) -> Callable[[], None]:
    """What starts a module. Its package runs when that is called; only its name has been looked up before."""
    _go_first(os.getcwd())
    try:
        found = importlib.util.find_spec(name.partition(".")[0])
    except (ImportError, ValueError, AttributeError) as error:
        raise GradprobeError(f"cannot run module {name}: {error}; name a module after -m") from None
    if found is None:
        raise GradprobeError(
            f"cannot run module {name}: there is none by that name; is it installed in {sys.executable}?"
        )
    return lambda: _as_main(name, is_module=True)


def _as_main(name: str, *, is_module: bool) -> None:
    if is_module:
        sys.argv[0] = "-m"
    runpy._run_module_as_main(name, is_module)  # type: ignore[attr-defined]


def _go_first(folder: str, *, always: bool = False) -> None:
    """Puts ``folder`` where python puts a program's, in place of what it put there for gradprobe."""
    holds_ours = not (getattr(sys.flags, "safe_path", False) or sys.flags.isolated)
    if holds_ours:
        sys.path[0] = folder
    elif always:
        sys.path.insert(0, folder)
