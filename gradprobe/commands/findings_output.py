"""Shared part of check and scan: their options, their output, and their exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gradprobe._files import check_writable, write_atomically
from gradprobe.analysis.findings.catalogue import SEVERITIES
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.suppression import SuppressedFinding, load_suppression
from gradprobe.errors import GradprobeError
from gradprobe.report.formats import findings_text, json_report, sarif

_RENDERERS = {".sarif": sarif.render_findings, ".json": json_report.render_findings}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that select findings and say where to write them."""
    parser.add_argument(
        "--fail-on",
        choices=SEVERITIES,
        default="warning",
        help="fail on findings of at least this severity (default: %(default)s)",
    )
    parser.add_argument("--ignore", default="", metavar="CODES", help="ignore these rules, such as GP801,GP2")
    parser.add_argument(
        "--show-suppressed", action="store_true", help="list the suppressed findings and what suppresses them"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="also write the findings to OUT, a .sarif or .json file"
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT")


def report_findings(options: argparse.Namespace, findings: Sequence[Finding], failures: Sequence[str] = ()) -> int:
    """Print and write the findings; return 1 if there is a serious one or any of ``failures``, else 0."""
    shown, suppressed = load_suppression(Path(), options.ignore.split(",")).split(findings)
    if options.output is not None:
        write_findings(options.output, shown, suppressed, force=options.force)
    if sys.stdout is not None:
        lines = [*findings_text.format_findings(shown), *failures]
        lines += findings_text.format_suppressed(suppressed) if options.show_suppressed else []
        print("\n".join([*lines, findings_text.format_summary(shown, suppressed)]))
    serious = SEVERITIES[: SEVERITIES.index(options.fail_on) + 1]
    return int(bool(failures) or any(finding.severity in serious for finding in shown))


def write_findings(
    path: Path, shown: Sequence[Finding], suppressed: Sequence[SuppressedFinding], *, force: bool
) -> None:
    """Write findings to a file.

    Raises ``GradprobeError`` for an unknown suffix or a file that cannot be written.
    """
    if path.suffix not in _RENDERERS:
        raise GradprobeError(f"cannot write {path}: findings are written as .sarif or .json; name such a file with -o")
    check_writable(path, force=force)
    write_atomically(path, _RENDERERS[path.suffix](shown, suppressed))
