"""Show one recording, or those of several processes on one time axis. Works without torch."""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gradprobe._files import check_writable, write_atomically
from gradprobe.analysis.analyzed_tables import AnalyzedTables
from gradprobe.commands.messages import print_message, print_text
from gradprobe.errors import GradprobeError
from gradprobe.recording.sqlite_file import read_file
from gradprobe.report.formats import html_page, registry
from gradprobe.report.formats.annotated_source import render_source
from gradprobe.report.formats.rendered import RenderOptions
from gradprobe.report.formats.text_style import TextStyle, choose_style
from gradprobe.report.sections import recording_document, source_view
from gradprobe.tables.recording_tables import RecordingTables

_M_MMAP_THRESHOLD, _LARGE = -3, 1 << 20
"""Option of glibc's ``mallopt``, and the bytes from which on memory is large."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``report``."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="recordings to show, one per process")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="write the report to OUT; its suffix selects the format"
    )
    parser.add_argument(
        "--format",
        choices=[one.name for one in registry.RECORDING_FORMATS],
        help="use this format instead of the one of OUT's suffix (default without OUT: terminal)",
    )
    parser.add_argument(
        "--top",
        type=int,
        metavar="ROWS",
        help=f"show at most ROWS rows per table (default: {recording_document.DEFAULT_MAX_ROWS}, "
        f"in HTML {html_page.PAGE_MAX_ROWS})",
    )
    parser.add_argument(
        "--all", dest="shows_all", action="store_true", help="in the terminal, show every section, column and row"
    )
    parser.add_argument(
        "--source", metavar="PATH", help="in the terminal, show this source file with what was recorded at each line"
    )
    parser.add_argument(
        "--depth",
        type=int,
        metavar="N",
        help="begin the picture of the flow of gradient with N levels of modules (default: as many as are seen at once)",
    )
    parser.add_argument("--charts", choices=("svg", "png"), help="with Markdown, write charts as files beside OUT")
    parser.add_argument(
        "--torch-trace",
        "--merge",
        dest="torch_trace",
        type=Path,
        metavar="TRACE",
        help="with the format trace, merge the recording into TRACE, which torch.profiler wrote of the same run",
    )
    parser.add_argument(
        "--include-torch",
        action="store_true",
        default=None,
        help="also show the blocks that PyTorch's own code enters, as in optimizers",
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT")


def execute(options: argparse.Namespace) -> int:
    """Show or write the report."""
    _return_large_memory()
    collects = gc.isenabled()
    # Everything that is read here is kept until the end; collecting garbage in it takes longer than reading it.
    gc.disable()
    try:
        return _report(options)
    finally:
        if collects:
            gc.enable()


def _return_large_memory() -> None:
    """Let the C library return each large array to the system when it is freed, as it does until it has freed a few."""
    with suppress(OSError, AttributeError, TypeError):  # another C library than glibc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


def _report(options: argparse.Namespace) -> int:
    used = _select_format(options.output, options.format)
    if options.top is not None and options.top < 1:
        raise GradprobeError(f"--top must be 1 or more, got {options.top}")
    if options.depth is not None and options.depth < 1:
        raise GradprobeError(f"--depth must be 1 or more, got {options.depth}")
    for option, value, needed in (
        ("--charts", options.charts, "markdown"),
        ("--torch-trace", options.torch_trace, "trace"),
    ):
        if value is not None and used.name != needed:
            suffix = registry.find_format(needed).suffixes[0]
            raise GradprobeError(f"{option} needs the format {needed}; name a file that ends in {suffix} with -o")
    if options.output is not None:
        for path in options.files:
            if _is_same(path, options.output):
                raise GradprobeError(f"cannot write {path}: it is a recording to read; name another file with -o")
        check_writable(options.output, force=options.force)
    elif sys.stdout is None:
        raise GradprobeError("cannot show the report: standard output is closed; name a file with -o")
    if options.source is not None and used.name != "terminal":
        raise GradprobeError("--source needs the format terminal; the page of -o OUT.html has every source file")
    contents = [read_file(path) for path in options.files]
    tables = AnalyzedTables(contents, include_torch=options.include_torch, watch=_make_progress_bar())
    style = choose_style(sys.stdout) if options.output is None else TextStyle()
    if options.source is not None:
        return _show_source(tables, options, style)
    render_options = RenderOptions(
        top=options.top,
        charts=options.charts,
        depth=options.depth,
        torch_trace=options.torch_trace,
        style=replace(style, shows_all=options.shows_all, whole="gradprobe report --all"),
    )
    if options.output is None:
        _print(used.render(tables, render_options).body)
        return 0
    for path in registry.save_report(tables, options.output, used, render_options, force=options.force):
        print_message(f"wrote {path}")
    return 0


def _show_source(tables: RecordingTables, options: argparse.Namespace, style: TextStyle) -> int:
    """Show or write one source file with what was recorded at each line."""
    (file,) = source_view.build_files(tables, options.source)
    text = render_source(file, style)
    if options.output is None:
        print_text(text)
    else:
        write_atomically(options.output, text)
        print_message(f"wrote {options.output}")
    return 0


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _select_format(output: Path | None, name: str | None) -> registry.Format:
    if name is not None:
        return registry.find_format(name)
    if output is None:
        return registry.find_format("terminal")
    return registry.find_format_of_path(output, registry.RECORDING_FORMATS)


def _make_progress_bar() -> Callable[[Sequence[Any]], Iterable[Any]]:
    from tqdm import tqdm

    # disable=None shows nothing unless standard error is a terminal.
    return partial(tqdm, desc="reading events", unit="", unit_scale=True, delay=1, leave=False, disable=None)


def _print(body: str | bytes) -> None:
    if isinstance(body, bytes):
        sys.stdout.buffer.write(body)
        return
    print_text(body)
