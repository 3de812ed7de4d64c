"""A finding of a rule: its line, the lines related to it, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from gradprobe.analysis.findings.catalogue import RULES, SEVERITIES


@dataclass(frozen=True)
class RelatedLine:
    """A line that belongs to a finding, and its role in it, such as ``mode entered here``."""

    file: str
    line: int
    role: str


@dataclass(frozen=True)
class Finding:
    """A problem at a line.

    ``fix`` is empty unless something better than the rule's fix is known, ``level`` unless the severity is another than the
    rule's. ``evidence`` says in numbers what was seen, ``phase`` in which phases of the program.
    """

    rule: str
    message: str
    file: str | None
    line: int | None
    function: str | None = None
    count: int = 1
    related: tuple[RelatedLine, ...] = ()
    fix: str = ""
    evidence: str = ""
    level: str = ""
    phase: str = ""

    @property
    def severity(self) -> str:
        """Severity: error, warning or note."""
        return self.level or RULES[self.rule].severity

    @property
    def advice(self) -> str:
        """Fix to show: the finding's own or the rule's."""
        return self.fix or RULES[self.rule].fix

    def make_row(self) -> tuple[Any, ...]:
        """Return the row of the findings table, in the order of its columns."""
        related = [{"file": place.file, "line": place.line, "role": place.role} for place in self.related]
        return (
            (self.rule, self.severity, self.message, self.file, self.line, self.function)
            + (self.count, related, self.advice, self.evidence, self.phase)
        )  # fmt: skip


def describe_count(rule: str, count: int) -> str:
    """Return how many times a finding occurred, to be added to its message; "" if that is once or the message says it."""
    is_counted = rule not in RULES or RULES[rule].counts_times
    return f" ({count:,} times)" if count > 1 and is_counted else ""


def merge_duplicates(findings: Iterable[Finding]) -> list[Finding]:
    """Merge equal findings, adding up their counts, and sort the most severe and most frequent first."""
    counts: dict[Finding, int] = {}
    for finding in findings:
        key = replace(finding, count=1)
        counts[key] = counts.get(key, 0) + finding.count
    merged = [replace(finding, count=count) for finding, count in counts.items()]
    return sorted(merged, key=lambda finding: (SEVERITIES.index(finding.severity), -finding.count))
