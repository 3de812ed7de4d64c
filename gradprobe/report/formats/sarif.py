"""SARIF 2.1.0, for code-review tools that show findings at their lines.

The format is OASIS' Static Analysis Results Interchange Format: docs.oasis-open.org/sarif/sarif/v2.1.0.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

from gradprobe._version import __version__
from gradprobe.analysis.findings import find_all
from gradprobe.analysis.findings.catalogue import RULES, Rule
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.suppression import SuppressedFinding, Suppression
from gradprobe.report.formats.rendered import Rendered, RenderOptions
from gradprobe.tables.recording_tables import RecordingTables

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_BASE = "SRCROOT"


def render_recording(tables: RecordingTables, options: RenderOptions) -> Rendered:
    """Render the findings of a recording; suppressed ones are marked as such."""
    shown, suppressed = Suppression().split(find_all(tables))
    return Rendered(render_findings(shown, suppressed))


def render_findings(shown: Sequence[Finding], suppressed: Sequence[SuppressedFinding] = ()) -> str:
    """Render the log of one run. Files below the working directory are named relative to it."""
    codes = {finding.rule for finding in (*shown, *(each.finding for each in suppressed))}
    rules = [rule for rule in RULES.values() if rule.code in codes]
    results = [_build_result(finding, rules) for finding in shown]
    results += [
        {**_build_result(each.finding, rules), "suppressions": [{"kind": _get_kind(each), "justification": each.by}]}
        for each in suppressed
    ]
    driver = {
        "name": "gradprobe",
        "semanticVersion": __version__,
        "rules": [_describe_rule(rule) for rule in rules],
    }
    run = {
        "tool": {"driver": driver},
        "originalUriBaseIds": {_BASE: {"uri": Path.cwd().as_uri() + "/"}},
        "results": results,
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _describe_rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": "".join(part.capitalize() for part in rule.name.split("-")),
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": rule.why},
        "help": {"text": f"{rule.why}\n\n{rule.fix}", "markdown": f"{rule.why}\n\n**Fix:** {rule.fix}"},
        "defaultConfiguration": {"level": rule.severity},
    }


def _build_result(finding: Finding, rules: Iterable[Rule]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": [rule.code for rule in rules].index(finding.rule),
        "level": finding.severity,
        "message": {"text": f"{finding.message} {finding.advice}"},
        "occurrenceCount": finding.count,
    }
    if finding.file is not None and finding.line is not None:
        result["locations"] = [_build_location(finding.file, finding.line)]
    related = [
        {"id": number, **_build_location(place.file, place.line), "message": {"text": place.role}}
        for number, place in enumerate(finding.related, 1)
    ]
    return {**result, "relatedLocations": related} if related else result


def _get_kind(suppressed: SuppressedFinding) -> str:
    return "inSource" if suppressed.is_by_comment else "external"


def _build_location(file: str, line: int) -> dict[str, Any]:
    path, base = Path(file), Path.cwd()
    if path.is_absolute() and not path.is_relative_to(base):
        artifact = {"uri": path.as_uri()}
    else:
        inside = path.relative_to(base) if path.is_absolute() else path
        artifact = {"uri": quote_from_bytes(os.fsencode(inside.as_posix())), "uriBaseId": _BASE}
    return {"physicalLocation": {"artifactLocation": artifact, "region": {"startLine": max(line, 1)}}}
