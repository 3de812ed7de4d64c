"""Catalogue of the rules: severity, summary, reason and fix of each finding. Codes are stable."""

from __future__ import annotations

from gradprobe.analysis.findings.catalogue import (
    compiler_codes,
    concurrency_codes,
    function_codes,
    gradient_codes,
    graph_codes,
    inference_codes,
    mode_codes,
    refusal_codes,
)
from gradprobe.analysis.findings.catalogue.rule import ERROR, NOTE, SEVERITIES, WARNING, Rule

__all__ = ["ERROR", "NOTE", "RULES", "SEVERITIES", "WARNING", "Rule"]

_ALL = (
    *mode_codes.RULES,
    *graph_codes.RULES,
    *compiler_codes.RULES,
    *inference_codes.RULES,
    *gradient_codes.RULES,
    *refusal_codes.RULES,
    *function_codes.RULES,
    *concurrency_codes.RULES,
)

RULES = {rule.code: rule for rule in sorted(_ALL, key=lambda rule: rule.code)}
"""All rules by their codes, in the order of these."""
