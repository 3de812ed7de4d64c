"""Run a script or a module as python would, and record it.

The program keeps its arguments, exit code and traceback. The last line names the recording and the next command.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
import sys
from pathlib import Path

from gradprobe._files import check_writable, clear_path
from gradprobe._levels import DEFAULT_LEVEL, LEVELS
from gradprobe.commands.exit_report import ExitReport
from gradprobe.commands.program_runner import make_main_module, prepare_module, prepare_script, run_program
from gradprobe.errors import GradprobeError
from gradprobe.recording.sqlite_file import SUFFIX
from gradprobe.subprocesses.follow_request import find_child_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``; everything after the program is left to the program."""
    parser.usage = (
        "gradprobe run [-h] [-o FILE] [--level LEVEL] [--html FILE] [--subprocesses] [--include-torch] "
        "[--profiler-ranges] [--force] (SCRIPT | -m MODULE) [ARGS ...]"
    )
    # The program's own options must not be taken for beginnings of these.
    parser.allow_abbrev = False
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="write the recording to FILE (default: NAME.PID.gradprobe in the current folder)",
    )
    parser.add_argument(
        "--level",
        choices=LEVELS,
        default=DEFAULT_LEVEL,
        help="amount of detail: modes, graph or ops (default: %(default)s)",
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="also write the report as a page after the program has ended"
    )
    parser.add_argument(
        "--subprocesses",
        "--follow",
        dest="follow",
        action="store_true",
        help="also record the Python processes that the program starts, in files beside FILE",
    )
    parser.add_argument("--include-torch", action="store_true", help="show PyTorch's own blocks in reports")
    parser.add_argument(
        "--profiler-ranges", action="store_true", help="name the blocks in recordings of the program's torch.profiler"
    )
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument(
        "-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="run a module instead of a script"
    )
    parser.add_argument(
        "script", nargs=argparse.REMAINDER, metavar="SCRIPT", help="run a script, a folder or an archive"
    )


def execute(options: argparse.Namespace) -> int:
    """Run and record the program, and return its exit code."""
    # "-mMODULE" in one word leaves the arguments to the other list.
    words = [*(options.module or ()), *options.script]
    if options.module is None and words[:1] == ["--"]:
        del words[0]
    if not words:
        raise GradprobeError("cannot run: no program was given; name a script, or a module after -m")
    ending = ExitReport()
    # Registered before torch and all that it imports, this is called after the handlers of all of them.
    atexit.register(ending)
    # Imported before the program's folder comes first on the path, where a file may have the name of a library. Not at
    # the top of this file, because the other verbs work without torch.
    try:
        from gradprobe.environment import rank
        from gradprobe.recorder import Recorder
    except ModuleNotFoundError as error:
        raise GradprobeError(
            f"cannot record: {error.name} is not installed for {sys.executable}; install it there"
        ) from None
    name, *arguments = words
    program = make_main_module()
    start = prepare_module(name) if options.module is not None else prepare_script(name, program)
    job_rank = None if os.environ.get("WORLD_SIZE", "1") == "1" else rank()
    stem = name.rpartition(".")[2] if options.module is not None else Path(os.path.abspath(name)).stem
    output = _add_rank(options.output or Path(f"{stem}.{os.getpid()}{SUFFIX}"), job_rank)
    html = None if options.html is None else _add_rank(options.html, job_rank)
    with contextlib.suppress(OSError):
        if os.path.samefile(output, name):
            raise GradprobeError(f"cannot write {output}: it is the program itself; name another file with -o")
    if html is not None:
        if html.suffix != ".html":
            raise GradprobeError(f"cannot write {html}: the report is a page; name a file that ends in .html")
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
    ending.expect(recorder, output, html, job_rank)
    if options.follow:
        ending.follow(options.level, include_torch=options.include_torch)
    sys.modules["__main__"] = program
    code = run_program(start, ending)
    if options.module is None:
        # As python does after a script that did not end by sys.exit; its threads and exit handlers may notice.
        for key in ("__file__", "__cached__"):
            vars(program).pop(key, None)
    return code


def _add_rank(path: Path, rank: int | None) -> Path:
    """Add the rank to the file name, because all processes of a job are started with the same ``path``."""
    return path if rank is None else path.with_name(f"{path.stem}.rank{rank}{path.suffix}")
