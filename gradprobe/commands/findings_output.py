"""Shared part of check and scan: their options, their output, and their exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gradprobe._files import check_writable, write_atomically
from gradprobe.analysis.findings.catalogue import SEVERITIES
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.suppression import SuppressedFinding, Suppression, load_suppression
from gradprobe.commands.messages import print_message
from gradprobe.errors import GradprobeError
from gradprobe.report.formats import brief, code_hosts, findings_text, json_report, sarif

_RENDERERS: Mapping[str, Callable[[Sequence[Finding], Sequence[SuppressedFinding]], str]] = {
    ".sarif": sarif.render_findings,
    ".json": json_report.render_findings,
    ".md": lambda shown, _: code_hosts.render_markdown(shown),
}
_DOCUMENTS: Mapping[str, Callable[[Sequence[Finding], Sequence[SuppressedFinding]], str]] = {
    "json": json_report.render_findings,
    "sarif": sarif.render_findings,
    "gitlab": lambda shown, _: code_hosts.render_gitlab(shown),
}
"""Formats that are one document: nothing else may be on standard output."""
FORMATS = ("text", "concise", "brief", "github", "markdown", *_DOCUMENTS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that select findings and say where to write them."""
    parser.add_argument(
        "--fail-on",
        choices=SEVERITIES,
        default="warning",
        help="fail on findings of at least this severity (default: %(default)s)",
    )
    parser.add_argument("--exit-zero", action="store_true", help="end with exit code 0 even if there are findings")
    parser.add_argument("--ignore", default="", metavar="CODES", help="ignore these rules, such as GP801,GP2")
    parser.add_argument(
        "--show-suppressed", action="store_true", help="list the suppressed findings and what suppresses them"
    )
    parser.add_argument(
        "--format", choices=FORMATS, default="text", help="print the findings in this format (default: %(default)s)"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        action="append",
        default=[],
        metavar="OUT",
        help="also write the findings to OUT, a .sarif, .json or .md file; repeatable",
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT")


def load_options(options: argparse.Namespace) -> Suppression:
    """Return the suppression of the command line and of the configuration of the current folder."""
    return load_suppression(Path(), options.ignore.split(","))


def report_findings(
    options: argparse.Namespace,
    findings: Sequence[Finding],
    failures: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> int:
    """Print and write the findings.

    Args:
        options: The options of the command line.
        findings: All findings, with those to be suppressed.
        failures: Lines that fail the command whatever was found, such as exceeded budgets.
        remarks: Lines to print before the findings.

    Returns:
        The exit code: 1 if there is a serious finding or any failure, else 0.
    """
    shown, suppressed = load_options(options).split(findings)
    for path in options.output:
        _check_output(path, force=options.force)
    for path in options.output:
        write_atomically(path, _RENDERERS[path.suffix](shown, suppressed))
    _print_findings(options, shown, suppressed, failures, remarks)
    serious = SEVERITIES[: SEVERITIES.index(options.fail_on) + 1]
    is_failed = bool(failures) or any(finding.severity in serious for finding in shown)
    return int(is_failed and not options.exit_zero)


def _print_findings(
    options: argparse.Namespace,
    shown: Sequence[Finding],
    suppressed: Sequence[SuppressedFinding],
    failures: Sequence[str],
    remarks: Sequence[str],
) -> None:
    summary = findings_text.format_summary(shown, suppressed)
    notes = [*findings_text.format_suppressed(suppressed)] if options.show_suppressed else []
    if options.format in ("text", "concise"):
        by_finding = map(findings_text.format_concisely, shown)
        lines = by_finding if options.format == "concise" else findings_text.format_findings(shown)
        if sys.stdout is not None:
            print("\n".join([*remarks, *lines, *failures, *notes, summary]))
        return
    # Another program reads standard output, so that what a person wants to know goes elsewhere.
    if options.format == "github":
        text = code_hosts.render_github(shown, failures)
    elif options.format == "brief":
        text = brief.render_findings(shown, failures)
    elif options.format == "markdown":
        text = code_hosts.render_markdown(shown, failures)
    else:
        text = _DOCUMENTS[options.format](shown, suppressed)
    if sys.stdout is not None:
        sys.stdout.write(text)
    for line in (*remarks, *failures, *notes, summary):
        print_message(line)


def _check_output(path: Path, *, force: bool) -> None:
    if path.suffix not in _RENDERERS:
        raise GradprobeError(
            f"cannot write {path}: findings are written as .sarif, .json or .md; name such a file with -o"
        )
    check_writable(path, force=force)
