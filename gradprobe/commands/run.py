"""Run a script or a module as python would, and record it from the moment when it imports torch.

The program keeps its arguments, exit code and traceback. The last line names the recording and the next command.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import sys
from pathlib import Path

import gradprobe
from gradprobe._files import SUFFIX, check_writable, clear_path
from gradprobe._levels import LEVELS
from gradprobe._rank import read_rank
from gradprobe.commands.exit_report import ExitReport
from gradprobe.commands.import_hook import record_from_import
from gradprobe.commands.program_runner import make_main_module, prepare_module, prepare_script, run_program
from gradprobe.errors import GradprobeError
from gradprobe.subprocesses.follow_request import find_child_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``; everything after the program is left to the program."""
    parser.usage = (
        "gradprobe run [-h] [-o FILE] [--level LEVEL] [--html FILE] [--subprocesses] [--include-torch] "
        "[--profiler-ranges] [--composite-parts] [--force] (SCRIPT | -m MODULE) [ARGS ...]"
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
        help="amount of detail: modes, graph or ops (default: ops, or graph where operators cannot be observed)",
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
    parser.add_argument(
        "--include-torch",
        action="store_true",
        help="show in reports also the blocks that PyTorch's own code enters, as in optimizers",
    )
    parser.add_argument(
        "--profiler-ranges", action="store_true", help="name the blocks in recordings of the program's torch.profiler"
    )
    parser.add_argument(
        "--composite-parts",
        action="store_true",
        help="at level ops, record the parts of composite operators too",
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
    if options.composite_parts and options.level not in (None, "ops"):
        raise GradprobeError(
            f"--composite-parts must not be given at level {options.level!r}: it is for level 'ops'; add --level ops"
        )
    if not words:
        raise GradprobeError("cannot run: no program was given; name a script, or a module after -m")
    if importlib.util.find_spec("torch") is None:
        raise GradprobeError(f"cannot record: torch is not installed for {sys.executable}; install it there")
    ending = ExitReport()
    name, *arguments = words
    program = make_main_module()
    own_path = list(sys.path)
    start = prepare_module(name) if options.module is not None else prepare_script(name, program)
    job_rank = None if os.environ.get("WORLD_SIZE", "1") == "1" else read_rank()
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
    check_writable(output, force=options.force)
    sys.argv = [name, *arguments]
    ending.expect(output, html, job_rank)
    record_from_import(options, ending, output.absolute(), own_path)
    sys.modules["__main__"] = program
    # pytest warns of plugins that were imported before it could rewrite their assertions, unless they ask it not to.
    gradprobe.__doc__ = f"{gradprobe.__doc__}\nPYTEST_DONT_REWRITE"
    code = run_program(start, ending)
    if options.module is None:
        # As python does after a script that did not end by sys.exit; its threads and exit handlers may notice.
        for key in ("__file__", "__cached__"):
            vars(program).pop(key, None)
    return code


def _add_rank(path: Path, rank: int | None) -> Path:
    """Add the rank to the file name, because all processes of a job are started with the same ``path``."""
    return path if rank is None else path.with_name(f"{path.stem}.rank{rank}{path.suffix}")
