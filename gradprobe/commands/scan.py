"""Find leaked modes and context managers without effect in Python source, without running it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.findings import find_all
from gradprobe.analysis.findings.finding import Finding, merge_duplicates
from gradprobe.commands import findings_output
from gradprobe.commands.messages import print_message
from gradprobe.errors import GradprobeError
from gradprobe.report.units import escape_unprintable
from gradprobe.scan.fixed_files import FixedFile, fix_files
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
    parser.add_argument("--fix", action="store_true", help="edit the files where an edit is certain")
    parser.add_argument("--diff", action="store_true", help="show what --fix would edit, and change nothing")
    parser.add_argument(
        "--unsafe-fixes", action="store_true", help="include edits that may change what callers of a function see"
    )
    findings_output.add_arguments(parser)


def execute(options: argparse.Namespace) -> int:
    """Scan the files, and return 1 if there are findings."""
    if (options.fix or options.diff) and options.recordings:
        raise GradprobeError("cannot edit with --recording: its lines are those of before; scan without it, then --fix")
    seen = scan_paths(options.paths)
    if options.diff:
        return _show_diff(options, seen)
    remarks = _fix(options, seen) if options.fix else []
    if options.fix:
        seen = scan_paths(options.paths)
    findings = seen.findings
    if options.recordings:
        tables = merge(options.recordings)._tables
        findings = _merge_findings(findings, find_all(tables))
        remarks += _list_unused_managers(seen, tables)
    code = findings_output.report_findings(options, findings, remarks=remarks)
    for path in seen.skipped:
        print_message(f"skipped: {path}")
    for problem in seen.unreadable:
        print_message(f"not read: {problem}")
        code = int(not options.exit_zero)  # else a file with a wrong character would pass
    print_message(
        f"{pluralize(seen.files, 'file')} scanned, {pluralize(len(seen.manager_uses), 'context manager')} found"
    )
    if not options.fix:
        _announce_fixes(options, findings)
    return code


def _fix(options: argparse.Namespace, seen: ScanResult) -> list[str]:
    """Edit the files, and return a line per edit."""
    lines = []
    for file in _find_fixes(options, seen.findings):
        if file.done:
            file.write()
            lines += [_describe_fix("fixed", finding, action) for finding, action in file.done]
    return lines


def _show_diff(options: argparse.Namespace, seen: ScanResult) -> int:
    """Print what ``--fix`` would change, and return 1 if that is anything."""
    fixes = [file for file in _find_fixes(options, seen.findings) if file.done]
    if sys.stdout is not None:
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        text = "".join(line for file in fixes for line in file.iter_diff())
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    for file in fixes:
        for finding, action in file.done:
            print_message(_describe_fix("would fix", finding, action))
    print_message(f"{pluralize(sum(len(file.done) for file in fixes), 'finding')} would be fixed")
    return int(bool(fixes) and not options.exit_zero)


def _announce_fixes(options: argparse.Namespace, findings: Sequence[Finding]) -> None:
    """Print how many of the findings ``--fix`` would edit."""
    fixes = _find_fixes(options, findings)
    certain, unsafe = sum(len(file.done) for file in fixes), sum(file.unsafe for file in fixes)
    if certain:
        print_message(f"{pluralize(certain, 'finding')} fixable with --fix")
    if unsafe:
        print_message(f"{pluralize(unsafe, 'finding')} fixable with --fix --unsafe-fixes")


def _find_fixes(options: argparse.Namespace, findings: Sequence[Finding]) -> list[FixedFile]:
    shown, _ = findings_output.load_options(options).split(findings)
    return fix_files(shown, unsafe=options.unsafe_fixes)


def _describe_fix(verb: str, finding: Finding, action: str) -> str:
    return f"{verb} {escape_unprintable(finding.file or '')}:{finding.line}: {finding.rule}: {action}"


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
