"""Findings as SARIF 2.1.0, which code-review tools show at their lines.

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
    """The findings of a recording; those that comments silence are marked so."""
    shown, silenced = Suppression().split(find_all(tables))
    return Rendered(render_findings(shown, silenced))


def render_findings(shown: Sequence[Finding], silenced: Sequence[SuppressedFinding] = ()) -> str:
    """A log of one run. Files in the working directory are named relative to it."""
    rules = [
        rule for rule in RULES.values() if any(f.rule == rule.code for f in (*shown, *(s.finding for s in silenced)))
    ]
    results = [_result(finding, rules) for finding in shown]
    results += [
        {**_result(each.finding, rules), "suppressions": [{"kind": _kind(each), "justification": each.by}]}
        for each in silenced
    ]
    driver = {
        "name": "gradprobe",
        "semanticVersion": __version__,
        "rules": [_rule(rule) for rule in rules],
    }
    run = {
        "tool": {"driver": driver},
        "originalUriBaseIds": {_BASE: {"uri": Path.cwd().as_uri() + "/"}},
        "results": results,
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": "".join(part.capitalize() for part in rule.name.split("-")),
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": rule.why},
        "help": {"text": f"{rule.why}\n\n{rule.fix}", "markdown": f"{rule.why}\n\n**Fix:** {rule.fix}"},
        "defaultConfiguration": {"level": rule.severity},
    }


def _result(finding: Finding, rules: Iterable[Rule]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": [rule.code for rule in rules].index(finding.rule),
        "level": finding.severity,
        "message": {"text": f"{finding.message} {finding.advice}"},
        "occurrenceCount": finding.count,
    }
    if finding.file is not None and finding.line is not None:
        result["locations"] = [_location(finding.file, finding.line)]
    related = [
        {"id": number, **_location(place.file, place.line), "message": {"text": place.role}}
        for number, place in enumerate(finding.related, 1)
    ]
    return {**result, "relatedLocations": related} if related else result


def _kind(suppressed: SuppressedFinding) -> str:
    return "inSource" if suppressed.is_by_comment else "external"


def _location(file: str, line: int) -> dict[str, Any]:
    path, base = Path(file), Path.cwd()
    if path.is_absolute() and not path.is_relative_to(base):
        artifact = {"uri": path.as_uri()}
    else:
        inside = path.relative_to(base) if path.is_absolute() else path
        artifact = {"uri": quote_from_bytes(os.fsencode(inside.as_posix())), "uriBaseId": _BASE}
    return {"physicalLocation": {"artifactLocation": artifact, "region": {"startLine": max(line, 1)}}}
