"""What a rule found: the place, the places that belong to it, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from gradprobe.analysis.findings.catalogue import RULES, SEVERITIES


@dataclass(frozen=True)
class RelatedLine:
    """A line that has to do with a finding, and how: entered here, born here, used here."""

    file: str
    line: int
    role: str


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, at one place. ``fix`` is the rule's own unless a better one is known."""

    rule: str
    message: str
    file: str | None
    line: int | None
    function: str | None = None
    count: int = 1
    related: tuple[RelatedLine, ...] = ()
    fix: str = ""

    @property
    def severity(self) -> str:
        """error, warning or note."""
        return RULES[self.rule].severity

    @property
    def advice(self) -> str:
        """What to do."""
        return self.fix or RULES[self.rule].fix

    def row(self) -> tuple[Any, ...]:
        """Its row of the table, in the order of the columns."""
        related = [{"file": place.file, "line": place.line, "role": place.role} for place in self.related]
        return (
            (self.rule, self.severity, self.message, self.file, self.line, self.function)
            + (self.count, related, self.advice)
        )  # fmt: skip


def merge_duplicates(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, what was found several times as one with the sum of the counts."""
    found: dict[Finding, int] = {}
    for finding in findings:
        key = replace(finding, count=1)
        found[key] = found.get(key, 0) + finding.count
    whole = [replace(finding, count=count) for finding, count in found.items()]
    return sorted(whole, key=lambda finding: (SEVERITIES.index(finding.severity), -finding.count))
