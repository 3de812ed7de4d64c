"""Findings as code hosts read them: annotations of GitHub, code quality of GitLab, a Markdown table for a job summary.

Hosts know files by their path in the repository, so files below the working directory are named relative to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from gradprobe.analysis.findings.finding import Finding, RelatedLine, describe_count
from gradprobe.report.formats.inline_code import make_code_span, to_markdown
from gradprobe.report.units import escape_unprintable

_GITHUB_COMMANDS = {"error": "error", "warning": "warning", "note": "notice"}
_GITLAB_SEVERITIES = {"error": "critical", "warning": "major", "note": "minor"}


def render_github(findings: Sequence[Finding], failures: Sequence[str] = ()) -> str:
    """Render a workflow command of GitHub Actions per finding, which shows it at its line of a pull request."""
    lines = []
    for finding in findings:
        properties = {"title": f"gradprobe ({finding.rule})"}
        if finding.file is not None:
            properties |= {"file": make_relative(finding.file), "line": str(max(finding.line or 1, 1))}
        shown = ",".join(f"{name}={_escape_property(value)}" for name, value in properties.items())
        text = "\n".join([_describe(finding), *_describe_related(finding.related), f"Fix: {finding.advice}"])
        lines.append(f"::{_GITHUB_COMMANDS[finding.severity]} {shown}::{_escape_data(text)}")
    lines += [f"::error title=gradprobe::{_escape_data(failure)}" for failure in failures]
    return "".join(f"{line}\n" for line in lines)


def render_gitlab(findings: Sequence[Finding]) -> str:
    """Render a code quality report of GitLab. A fingerprint does not change when the finding's line moves."""
    known: set[str] = set()
    rows = []
    for finding in findings:
        path = make_relative(finding.file or ".")
        row = {
            "description": f"{finding.rule}: {_describe(finding)} {finding.advice}",
            "check_name": finding.rule,
            "fingerprint": _make_fingerprint(finding, path, known),
            "severity": _GITLAB_SEVERITIES[finding.severity],
            "location": {"path": path, "lines": {"begin": max(finding.line or 1, 1)}},
        }
        rows.append(row)
    return json.dumps(rows, indent=1) + "\n"


def render_markdown(findings: Sequence[Finding], failures: Sequence[str] = ()) -> str:
    """Render a table of the findings for the summary of a job or a comment."""
    rows = [
        (
            make_code_span(escape_unprintable(_locate(finding.file, finding.line)), in_table=True),
            finding.severity,
            finding.rule,
            render_cell(_describe(finding)),
            render_cell(finding.advice),
        )
        for finding in findings
    ]
    lines = [f"- {to_markdown(escape_unprintable(failure))}" for failure in failures]
    lines += [""] if failures and rows else []
    if rows:
        lines += ["| place | severity | rule | finding | fix |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return "".join(f"{line}\n" for line in lines or ["Nothing found."])


def make_relative(file: str) -> str:
    """Return the path of a file below the working directory relative to it, and other paths as they are."""
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return path.as_posix()


def _describe(finding: Finding) -> str:
    return finding.message + describe_count(finding.rule, finding.count)


def _describe_related(related: Iterable[RelatedLine]) -> list[str]:
    return [f"{place.role}: {_locate(place.file, place.line)}" for place in related]


def _locate(file: str | None, line: int | None) -> str:
    return "(no location)" if file is None else f"{make_relative(file)}:{line}"


def _make_fingerprint(finding: Finding, path: str, known: set[str]) -> str:
    """Return a fingerprint of rule, file, function and message; equal findings of one file are numbered."""
    text = "\0".join([finding.rule, path, finding.function or "", finding.message])
    number = 0
    while (found := hashlib.sha256(f"{text}\0{number}".encode("utf-8", "surrogatepass")).hexdigest()) in known:
        number += 1
    known.add(found)
    return found


def _escape_data(text: str) -> str:
    lines = (escape_unprintable(line).replace("%", "%25") for line in text.split("\n"))
    return "%0A".join(lines)


def _escape_property(text: str) -> str:
    return _escape_data(text).replace(":", "%3A").replace(",", "%2C")


def render_cell(sentence: str) -> str:
    """Render a sentence so that Markdown finds no tag and no border of a cell in it, but its code."""
    return to_markdown(escape_unprintable(sentence), in_table=True)
