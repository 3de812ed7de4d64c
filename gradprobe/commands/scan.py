"""Find leaked modes and context managers without effect in Python source, without running it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gradprobe.analysis.findings import find_all
from gradprobe.analysis.findings.finding import Finding, merge_duplicates
from gradprobe.commands import findings_output
from gradprobe.commands.messages import print_message
from gradprobe.report.units import escape_unprintable, pluralize
from gradprobe.scan.source_files import ScanResult, scan_paths
from gradprobe.stored_recordings import merge
from gradprobe.tables.recording_tables import RecordingTables


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``scan``."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="Python files, or folders of them")
    parser.add_argument(
        "--recording",
        "--with",
        dest="recordings",
        action="append",
        type=Path,
        metavar="FILE",
        help="merge with the findings of this recording; repeatable",
    )
    findings_output.add_arguments(parser)


def execute(options: argparse.Namespace) -> int:
    """Scan the files, and return 1 if there are findings."""
    seen = scan_paths(options.paths)
    findings = seen.findings
    if options.recordings:
        tables = merge(options.recordings)._tables
        findings = _merge_findings(findings, find_all(tables))
        for line in _list_unused_managers(seen, tables):
            print(line)
    code = findings_output.report_findings(options, findings)
    for problem in seen.unreadable:
        print_message(f"not read: {problem}")
    print_message(
        f"{pluralize(seen.files, 'file')} scanned, {pluralize(len(seen.manager_uses), 'context manager')} found"
    )
    return code


def _merge_findings(scanned: Sequence[Finding], ran: Sequence[Finding]) -> list[Finding]:
    """Merge the findings; one that both have is shown as the run saw it, with its count and more places."""
    in_source = {(f.rule, _resolve(f.file), f.line) for f in scanned}
    in_run = {place for f in ran for place in _list_places(f)}
    updated = [
        replace(f, message=f"{f.message} (in the source and in the run)") if in_source & _list_places(f) else f
        for f in ran
    ]
    return merge_duplicates([*updated, *(f for f in scanned if (f.rule, _resolve(f.file), f.line) not in in_run)])


def _list_places(finding: Finding) -> set[tuple[str, str, int | None]]:
    related = {(finding.rule, _resolve(place.file), place.line) for place in finding.related}
    return {(finding.rule, _resolve(finding.file), finding.line), *related}


def _list_unused_managers(seen: ScanResult, tables: RecordingTables) -> Iterator[str]:
    """Yield a line per manager in the source that the recording did not see entered."""
    ran = {(_resolve(file), line) for file, line in zip(tables.sites["file"], tables.sites["line"], strict=True)}
    for site in seen.manager_uses:
        if (_resolve(site.file), site.line) not in ran:
            yield f"{escape_unprintable(site.file)}:{site.line}: {site.manager} never ran"


def _resolve(file: object) -> str:
    return os.path.realpath(file) if isinstance(file, str) else ""
