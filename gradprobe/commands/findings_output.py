"""What check and scan share: their options, what they write, and the exit code that it comes to."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradprobe._files import check_writable, write_atomically
from gradprobe.analysis.findings.catalogue import SEVERITIES
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.suppression import SuppressedFinding, load_suppression
from gradprobe.errors import GradprobeError
from gradprobe.report.formats import findings_text, sarif
from gradprobe.tables.columns import FINDINGS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say what counts, and where the result goes."""
    parser.add_argument(
        "--fail-on", choices=SEVERITIES, default="warning", help="the least severity that fails (warning)"
    )
    parser.add_argument("--ignore", default="", metavar="CODES", help="rules to ignore, such as GP801,GP2")
    parser.add_argument("--show-suppressed", action="store_true", help="list what is ignored, and by what")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="write the findings here: .sarif or .json")
    parser.add_argument("--force", action="store_true", help="overwrite OUT")


def report_findings(options: argparse.Namespace, findings: Sequence[Finding], others: Sequence[str] = ()) -> int:
    """Shows the findings, ``others`` being more that fails; the exit code: 0 nothing serious, 1 something."""
    shown, hidden = load_suppression(Path(), options.ignore.split(",")).split(findings)
    if options.output is not None:
        write_findings(options.output, shown, hidden, force=options.force)
    if sys.stdout is not None:
        said = [*findings_text.format_findings(shown), *others]
        said += findings_text.format_suppressed(hidden) if options.show_suppressed else []
        print("\n".join([*said, findings_text.format_summary(shown, hidden)]))
    serious = SEVERITIES[: SEVERITIES.index(options.fail_on) + 1]
    return int(bool(others) or any(finding.severity in serious for finding in shown))


def write_findings(path: Path, shown: Sequence[Finding], hidden: Sequence[SuppressedFinding], *, force: bool) -> None:
    """Raises ``GradprobeError`` for a suffix that means neither format, and where the file cannot be written."""
    if path.suffix not in (".sarif", ".json"):
        raise GradprobeError(f"{path}: findings are written as .sarif or .json; name such a file after -o")
    check_writable(path, force=force)
    write_atomically(path, sarif.render_findings(shown, hidden) if path.suffix == ".sarif" else _json(shown, hidden))


def _json(shown: Sequence[Finding], hidden: Sequence[SuppressedFinding]) -> str:
    rows: list[dict[str, Any]] = [dict(zip(FINDINGS.names, finding.row(), strict=True)) for finding in shown]
    silenced = [dict(zip(FINDINGS.names, s.finding.row(), strict=True)) | {"suppressed_by": s.by} for s in hidden]
    return json.dumps({"findings": rows, "suppressed": silenced}, indent=1) + "\n"
