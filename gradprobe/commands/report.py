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

from gradprobe.errors import GradprobeError
from gradprobe.recording.store import read_file
from gradprobe.recording.tables import Tables
from gradprobe.report import build, json_format, markdown, terminal
from gradprobe.report.units import printable
from gradprobe.result import check_room, write_text

_FORMATS: dict[str, Callable[[Tables, int], str]] = {
    "terminal": lambda tables, top: terminal.render(build.document(tables, top=top)),
    "markdown": lambda tables, top: markdown.render(build.document(tables, top=top)),
    "json": lambda tables, top: json_format.render(tables),
}
_BY_SUFFIX = {".md": "markdown", ".json": "json", ".txt": "terminal"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="recordings, one per process")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="write here; the suffix tells the format")
    parser.add_argument("--format", choices=sorted(_FORMATS), help="the format, where OUT does not tell it")
    parser.add_argument("--top", type=int, default=build.TOP, metavar="N", help="rows per table (%(default)s)")
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
    render = _FORMATS[_format(options.output, options.format)]
    if options.top < 1:
        raise GradprobeError(f"--top {options.top} shows nothing; give 1 or more")
    if options.output is not None:
        for path in options.files:
            if _is_same(path, options.output):
                raise GradprobeError(f"{path} is a recording to read; name another file after -o")
        check_room(options.output, force=options.force)
    elif sys.stdout is None:
        raise GradprobeError("standard output is closed; name a file with -o")
    contents = [read_file(path) for path in options.files]
    text = render(Tables(contents, include_torch=options.include_torch, watch=_progress()), options.top)
    if options.output is None:
        sys.stdout.write(_encodable(text, sys.stdout))
        return 0
    write_text(options.output, text)
    if sys.stderr is not None:
        print(f"wrote {printable(str(options.output))}", file=sys.stderr)
    return 0


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _format(output: Path | None, asked: str | None) -> str:
    if asked is not None:
        return asked
    if output is None:
        return "terminal"
    known = _BY_SUFFIX.get(output.suffix)
    if known is None:
        raise GradprobeError(
            f"{output}: its suffix names no format; use one of {', '.join(_BY_SUFFIX)}, or say --format"
        )
    return known


def _progress() -> Callable[[Sequence[Any]], Iterable[Any]]:
    from tqdm import tqdm

    # disable=None shows nothing unless standard error is a terminal.
    return partial(tqdm, desc="reading events", unit="", unit_scale=True, delay=1, leave=False, disable=None)


def _encodable(text: str, stream: Any) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
