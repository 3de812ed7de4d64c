"""Shows one recording, or those of several processes on one time axis. Needs no torch."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gradprobe._files import check_writable
from gradprobe.analysis.analyzed_tables import AnalyzedTables
from gradprobe.errors import GradprobeError
from gradprobe.recording.sqlite_file import read_file
from gradprobe.report.formats import html_page, registry
from gradprobe.report.formats.rendered import RenderOptions
from gradprobe.report.sections import recording_document
from gradprobe.report.units import escape_unprintable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="recordings, one per process")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="write here; the suffix tells the format")
    parser.add_argument(
        "--format",
        choices=[one.name for one in registry.RECORDING_FORMATS],
        help="the format, where OUT does not tell it",
    )
    parser.add_argument(
        "--top",
        type=int,
        metavar="N",
        help=f"rows per table ({recording_document.DEFAULT_MAX_ROWS}, in HTML {html_page.PAGE_MAX_ROWS})",
    )
    parser.add_argument("--charts", choices=("svg", "png"), help="with Markdown: charts as files beside OUT")
    parser.add_argument(
        "--merge",
        type=Path,
        metavar="TRACE",
        help="with a trace: put the recording into this one of torch.profiler's",
    )
    parser.add_argument("--include-torch", action="store_true", default=None, help="show PyTorch's own blocks too")
    parser.add_argument("--force", action="store_true", help="overwrite OUT")


def execute(options: argparse.Namespace) -> int:
    collects = gc.isenabled()
    # What is read here stays until the end; looking for garbage in it takes longer than the reading.
    gc.disable()
    try:
        return _report(options)
    finally:
        if collects:
            gc.enable()


def _report(options: argparse.Namespace) -> int:
    used = _format(options.output, options.format)
    if options.top is not None and options.top < 1:
        raise GradprobeError(f"--top {options.top} shows nothing; give 1 or more")
    for option, needed in (("charts", "markdown"), ("merge", "trace")):
        if getattr(options, option) is not None and used.name != needed:
            suffix = registry.find_format(needed).suffixes[0]
            raise GradprobeError(
                f"--{option} goes with the format {needed}; name a file that ends in {suffix} after -o"
            )
    if options.output is not None:
        for path in options.files:
            if _is_same(path, options.output):
                raise GradprobeError(f"{path} is a recording to read; name another file after -o")
        check_writable(options.output, force=options.force)
    elif sys.stdout is None:
        raise GradprobeError("standard output is closed; name a file with -o")
    contents = [read_file(path) for path in options.files]
    tables = AnalyzedTables(contents, include_torch=options.include_torch, watch=_progress())
    asked = RenderOptions(top=options.top, charts=options.charts, merge=options.merge)
    if options.output is None:
        _print(used.render(tables, asked).body)
        return 0
    for path in registry.save_report(tables, options.output, used, asked, force=options.force):
        if sys.stderr is not None:
            print(f"wrote {escape_unprintable(str(path))}", file=sys.stderr)
    return 0


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _format(output: Path | None, asked: str | None) -> registry.Format:
    if asked is not None:
        return registry.find_format(asked)
    return (
        registry.find_format("terminal")
        if output is None
        else registry.find_format_of_path(output, registry.RECORDING_FORMATS)
    )


def _progress() -> Callable[[Sequence[Any]], Iterable[Any]]:
    from tqdm import tqdm

    # disable=None shows nothing unless standard error is a terminal.
    return partial(tqdm, desc="reading events", unit="", unit_scale=True, delay=1, leave=False, disable=None)


def _print(body: str | bytes) -> None:
    if isinstance(body, bytes):
        sys.stdout.buffer.write(body)
        return
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(body.encode(encoding, "backslashreplace").decode(encoding))
