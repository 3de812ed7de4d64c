"""Decide at each line whether no_grad may become inference_mode, by running the program both ways.

The verdict is swap, keep or unproven. The program's files are not changed unless --apply or --comment is given.
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from gradprobe._files import SUFFIX, check_writable, write_atomically
from gradprobe.commands.messages import print_message
from gradprobe.errors import GradprobeError

_FORMATS = (".json", ".md", ".html", ".txt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``advise``."""
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="Python files or folders to examine, or recordings of programs; a single script is run itself",
    )
    parser.add_argument(
        "--test",
        metavar="COMMAND",
        help='command that tests the program, such as "pytest -q" (default: the script)',
    )
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="write to OUT: .json, .md, .html or .txt")
    parser.add_argument("--patch", type=Path, metavar="FILE", help="write what was proven as one unified diff")
    parser.add_argument("--apply", action="store_true", help="edit the files, test again, and take back what fails")
    parser.add_argument("--comment", action="store_true", help="write the reason above each line that is to stay")
    parser.add_argument("--no-timing", action="store_true", help="do not measure what a swap gains")
    parser.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        metavar="S",
        help="longest time of one run, and of all runs together that do not end, in seconds (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT and FILE")


def execute(options: argparse.Namespace) -> int:
    """Examine the sites, show the verdicts, and write what was asked for; return 1 if an applied edit was taken back."""
    for path in (options.output, options.patch):
        if path is not None:
            check_writable(path, force=options.force)
    if options.output is not None and options.output.suffix not in _FORMATS:
        raise GradprobeError(f"cannot write {options.output}: unknown format; use one of {', '.join(_FORMATS)}")
    if importlib.util.find_spec("torch") is None:
        raise GradprobeError(f"cannot run the program: torch is not installed for {sys.executable}; install it there")
    from gradprobe.advice.advice_document import build_document, to_json
    from gradprobe.advice.examination import examine
    from gradprobe.report.formats import html_page, markdown, terminal
    from gradprobe.report.formats.text_style import TextStyle, choose_style

    recordings = [path for path in options.paths if path.suffix == SUFFIX]
    sources = [path for path in options.paths if path.suffix != SUFFIX]
    result = examine(
        sources,
        recordings,
        None if options.test is None else shlex.split(options.test),
        timeout_s=options.timeout,
        is_timed=not options.no_timing,
        report=print_message,
    )
    document = build_document(result.certificates, result.remarks)
    style = replace(choose_style(sys.stdout), shows_all=True)
    print(terminal.render_document(document, style), end="")
    if options.output is not None:
        renderers: dict[str, Callable[[], str]] = {
            ".json": lambda: to_json(result.certificates),
            ".md": lambda: markdown.render_document(document),
            ".html": lambda: html_page.render_page(document),
            ".txt": lambda: terminal.render_document(document, TextStyle(shows_all=True)),
        }
        write_atomically(options.output, renderers[options.output.suffix]())
    if options.patch is not None:
        write_atomically(options.patch, result.make_patch())
    code = 0
    if options.apply:
        code = _show_applied(result.apply())
    if options.comment:
        result.comment()
    return code


def _show_applied(failed: Sequence[str]) -> int:
    for line in failed:
        print_message(f"taken back, because the program behaves differently with it: {line}")
    return int(bool(failed))
