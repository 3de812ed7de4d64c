"""Show what changed between two recordings: sites, nodes, bytes, findings, time. Works without torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gradprobe._files import SUFFIX, check_writable, write_atomically
from gradprobe.analysis.difference.recording_difference import compute_difference
from gradprobe.analysis.findings import find_all
from gradprobe.analysis.findings.catalogue import SEVERITIES
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.suppression import load_suppression
from gradprobe.commands.messages import print_message, print_text
from gradprobe.errors import GradprobeError
from gradprobe.report.formats import difference_report
from gradprobe.report.formats.text_style import TextStyle, choose_style
from gradprobe.stored_recordings import merge
from gradprobe.tables.recording_tables import RecordingTables


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``diff``."""
    parser.add_argument("before", type=Path, metavar="A", help="recording before the change, or a folder of them")
    parser.add_argument("after", type=Path, metavar="B", help="recording after the change, or a folder of them")
    parser.add_argument(
        "--fail-on",
        choices=SEVERITIES,
        help="fail on new findings of at least this severity (default: never)",
    )
    parser.add_argument("--ignore", default="", metavar="CODES", help="ignore these rules, such as GP801,GP2")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="write the report to OUT; its suffix selects the format"
    )
    parser.add_argument(
        "--format",
        choices=difference_report.FORMATS,
        help="use this format instead of the one of OUT's suffix (default without OUT: terminal)",
    )
    parser.add_argument(
        "--all", dest="shows_all", action="store_true", help="in the terminal, show every section, column and row"
    )
    parser.add_argument("--top", type=int, metavar="ROWS", help="show at most ROWS rows per table")
    parser.add_argument("--force", action="store_true", help="overwrite OUT")


def execute(options: argparse.Namespace) -> int:
    """Show or write the difference, and return 1 if there are new findings that ``--fail-on`` names."""
    format_name, inputs = _select_format(options), (options.before, options.after)
    if options.top is not None and options.top < 1:
        raise GradprobeError(f"--top must be 1 or more, got {options.top}")
    if options.output is not None:
        if any(path.exists() and options.output.exists() and path.samefile(options.output) for path in inputs):
            raise GradprobeError(f"cannot write {options.output}: it is a recording to read; name another file with -o")
        check_writable(options.output, force=options.force)
    elif sys.stdout is None:
        raise GradprobeError("cannot show the difference: standard output is closed; name a file with -o")
    before, after = (merge(_list_files(path))._tables for path in inputs)
    findings = _find(before, options.ignore), _find(after, options.ignore)
    found = compute_difference(before, after, findings)
    names = str(options.before), str(options.after)
    style = choose_style(sys.stdout) if options.output is None else TextStyle()
    style = replace(style, shows_all=options.shows_all, whole="gradprobe diff --all")
    text = difference_report.render_difference(found, names, format_name, top=options.top, style=style)
    if options.output is None:
        print_text(text)
    else:
        write_atomically(options.output, text)
        print_message(f"wrote {options.output}")
    serious = SEVERITIES[: SEVERITIES.index(options.fail_on) + 1] if options.fail_on else ()
    return int(any(finding.severity in serious for finding in found.new))


def _select_format(options: argparse.Namespace) -> str:
    if options.format is not None:
        return str(options.format)
    if options.output is None:
        return "terminal"
    suffix = options.output.suffix
    if suffix not in difference_report.SUFFIXES:
        cause = f"unknown report format {suffix!r}" if suffix else "its name has no suffix"
        raise GradprobeError(
            f"cannot write {options.output}: {cause}; use one of {', '.join(difference_report.SUFFIXES)}"
        )
    return difference_report.SUFFIXES[suffix]


def _list_files(path: Path) -> list[Path]:
    """Return the recordings at ``path``: itself, or those of the processes whose folder it is."""
    if not path.is_dir():
        return [path]
    files = sorted(path.glob(f"*{SUFFIX}"))
    if not files:
        raise GradprobeError(f"cannot compare {path}: the folder has no recordings; name a file that ends in {SUFFIX}")
    return files


def _find(tables: RecordingTables, ignored: str) -> Sequence[Finding]:
    return load_suppression(Path(), ignored.split(",")).split(find_all(tables))[0]
