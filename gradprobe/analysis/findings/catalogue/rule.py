"""Entry of the catalogue of rules: severity, summary, reason and fix."""

from __future__ import annotations

from dataclasses import dataclass

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)
"""Severities, the most serious first: wrong results or an exception; waste or a trap; by design."""


@dataclass(frozen=True)
class Rule:
    """A cause of findings. The first digit of its code is the family that it belongs to."""

    code: str
    name: str
    severity: str
    summary: str
    why: str
    fix: str
    counts_times: bool = True
    """True if reports add how many times a finding occurred; if not, its message says how many of what there are."""
