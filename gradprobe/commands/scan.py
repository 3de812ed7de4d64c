"""Looks through Python source for managers without effect and modes that escape. Runs nothing, needs no torch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gradprobe.analysis.findings import find_all
from gradprobe.analysis.findings.finding import Finding, merge_duplicates
from gradprobe.commands import findings_output
from gradprobe.report.units import escape_unprintable, pluralize
from gradprobe.result import merge
from gradprobe.scan.source_files import ScanResult, scan_paths
from gradprobe.tables.recording_tables import RecordingTables


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="Python files, and folders of them")
    parser.add_argument(
        "--with",
        dest="recordings",
        action="append",
        type=Path,
        metavar="FILE",
        help="merge with what this recording saw",
    )
    findings_output.add_arguments(parser)


def execute(options: argparse.Namespace) -> int:
    seen = scan_paths(options.paths)
    findings = seen.findings
    if options.recordings:
        tables = merge(options.recordings)._tables
        findings = _merged(findings, find_all(tables))
        for line in _never_ran(seen, tables):
            print(line)
    code = findings_output.report_findings(options, findings)
    for problem in seen.unread:
        _say(f"not read: {problem}")
    _say(f"{pluralize(seen.files, 'file')} scanned, {pluralize(len(seen.sites), 'manager')} in them")
    return code


def _merged(scanned: Sequence[Finding], ran: Sequence[Finding]) -> list[Finding]:
    """Both, and what both saw once: as the run tells it, which has counts and more places."""
    in_source = {(f.rule, _same(f.file), f.line) for f in scanned}
    in_run = {place for f in ran for place in _places(f)}
    told = [
        replace(f, message=f"{f.message} (in the source and in the run)") if in_source & _places(f) else f for f in ran
    ]
    return merge_duplicates([*told, *(f for f in scanned if (f.rule, _same(f.file), f.line) not in in_run)])


def _places(finding: Finding) -> set[tuple[str, str, int | None]]:
    related = {(finding.rule, _same(place.file), place.line) for place in finding.related}
    return {(finding.rule, _same(finding.file), finding.line), *related}


def _never_ran(seen: ScanResult, tables: RecordingTables) -> Iterator[str]:
    """The managers in the source that the recording did not see entered."""
    ran = {(_same(file), line) for file, line in zip(tables.sites["file"], tables.sites["line"], strict=True)}
    for site in seen.sites:
        if (_same(site.file), site.line) not in ran:
            yield f"{escape_unprintable(site.file)}:{site.line}: {site.manager} never ran"


def _same(file: object) -> str:
    return os.path.realpath(file) if isinstance(file, str) else ""


def _say(text: str) -> None:
    if sys.stderr is not None:
        print(escape_unprintable(text), file=sys.stderr)
