"""Certificates as rows of JSON, and as the document that the other formats render."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gradprobe._counted_nouns import pluralize
from gradprobe.advice.certificate import KEEP, SWAP, UNPROVEN, Certificate
from gradprobe.advice.manager_sites import EXCHANGED
from gradprobe.report.document import Document, FindingItem, Section, Table
from gradprobe.report.units import escape_unprintable, format_bytes, format_location

_LATER = ("raises", "did not run", "would", "returns", "leaves")
"""Beginnings of the roles of lines that use, or pass on, what a block leaves."""

_AGREED = "none"
"""Reason of a line at which both runs agree: the report leaves it out, for "swap none" reads as a refusal."""

_MAX_SHOWN = 12
"""Maximum number of lines of proof that the report shows of a site."""


def to_json(certificates: Sequence[Certificate]) -> str:
    """Return the certificates as a JSON list."""
    return json.dumps([_to_row(each) for each in certificates], indent=2) + "\n"


def _to_row(certificate: Certificate) -> dict[str, Any]:
    site = certificate.site
    return {
        "file": site.file,
        "line": site.line,
        "manager": site.manager,
        "form": site.form,
        "function": site.function,
        "verdict": certificate.verdict,
        "reason": certificate.reason,
        "message": certificate.message,
        "proof": [{"file": each.file, "line": each.line, "role": each.role} for each in certificate.proof],
        "gain": certificate.gain,
        "patch": certificate.patch,
        "with": list(certificate.together),
    }


def build_document(certificates: Sequence[Certificate], remarks: Sequence[str]) -> Document:
    """Build the report of certificates: a table for a reviewer, then each site with its proof."""
    counts = {verdict: sum(each.verdict == verdict for each in certificates) for verdict in (SWAP, KEEP, UNPROVEN)}
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) or "no site"
    verdict = [f"{pluralize(len(certificates), 'site')} of no_grad and inference_mode: {summary}.", *remarks]
    sections = [Section("Sites", table=_build_table(certificates))] if certificates else []
    if certificates:
        sections.append(Section("Proof", items=[_build_item(each) for each in certificates]))
    return Document("gradprobe: may no_grad become inference_mode?", [escape_unprintable(v) for v in verdict], sections)


def _build_table(certificates: Sequence[Certificate]) -> Table:
    rows = [
        [
            escape_unprintable(format_location(each.site.file, each.site.line)),
            each.site.manager,
            each.verdict,
            "-" if each.reason == _AGREED else each.reason,
            _describe_ratio(each),
            _describe_memory(each),
            "-" if each.reason in (_AGREED, "not_run", "escapes_unknown") else "yes",
            _describe_later(each),
        ]
        for each in certificates
    ]
    return Table(
        ["site", "manager", "verdict", "reason", "time ratio", "kept memory", "runs differ", "later uses"], rows
    )


def _describe_ratio(certificate: Certificate) -> str:
    """Return the time under ``inference_mode`` by that under ``no_grad``, short enough for a terminal."""
    gain = certificate.gain
    if gain is None or gain["ratio"] is None:
        return "not measured"
    return f"{gain['ratio']:.3f} ({gain['ci_low']:.3f} to {gain['ci_high']:.3f})"


def _describe_memory(certificate: Certificate) -> str:
    """Return the bytes of the tensors that leave the block, which either mode allocates alike."""
    return format_bytes(certificate.kept_bytes) if certificate.kept_bytes else "-"


def _describe_later(certificate: Certificate) -> str:
    lines = sorted({each.line for each in certificate.proof if each.role.startswith(_LATER)})
    return ", ".join(f"line {line}" for line in lines) or "-"


def _build_item(certificate: Certificate) -> FindingItem:
    site, shown = certificate.site, certificate.proof[:_MAX_SHOWN]
    related = [(escape_unprintable(each.role), format_location(each.file, each.line)) for each in shown]
    left = len(certificate.proof) - len(shown)
    if left:
        related.append((f"and {pluralize(left, 'more line')}", "in the file of -o OUT.json"))
    together = f" Only together with line {', '.join(map(str, certificate.together))}." if certificate.together else ""
    fix = f"Use `torch.{EXCHANGED[site.manager]}` here.{together}" if certificate.verdict == SWAP else ""
    return FindingItem(
        "" if certificate.reason == _AGREED else certificate.reason,
        certificate.verdict,
        escape_unprintable(f"{site.manager} ({site.form}): {certificate.message}"),
        escape_unprintable(format_location(site.file, site.line)),
        fix,
        related=related,
        speed="" if certificate.gain is None else escape_unprintable(certificate.gain["text"]),
    )
