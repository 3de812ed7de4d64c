"""The neutral document between what was seen and its renderers: sections of sentences, tables, charts and findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

UNEXPLAINED = "left over"
"""The part of a difference that no mechanism explains, in charts of parts."""


@dataclass(frozen=True)
class Table:
    """Cells are text, ready to read; ``numeric`` names the columns to align to the right.

    A cell that is a ``units.Figure`` knows the number that it shows.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[str] = frozenset()
    left_out: int = 0
    sums: int = 0
    """How many rows at the end sum up others."""
    bars: str | None = None
    """A column of shares, which plain text shows as bars too."""

    def with_bars(self) -> Table:
        """The table with bars of text in one more column."""
        if self.bars is None:
            return self
        at = list(self.columns).index(self.bars)
        drawn = [[*row, "=" * round(30 * getattr(row[at], "value", 0))] for row in self.rows]
        return replace(self, columns=[*self.columns, ""], rows=drawn, bars=None)


@dataclass(frozen=True)
class Chart:
    """What to draw, as data: ``kind`` says how, and ``rows`` hold what report/charts.py says that this kind needs."""

    name: str
    """Part of a file's name, where the chart becomes one."""
    kind: Literal["timeline", "shares", "intervals", "parts", "points"]
    caption: str
    rows: Sequence[Mapping[str, Any]]
    unit: str = ""


@dataclass(frozen=True)
class Excerpt:
    """Lines of a source file; ``marked`` is the number of the one that matters."""

    first: int
    lines: Sequence[str]
    marked: int


@dataclass(frozen=True)
class FindingItem:
    """One finding: which rule, how bad, what, where, what to do, the source lines around it where they could be read, and
    the places that belong to it, each with its role."""

    rule: str
    severity: str
    text: str
    place: str
    fix: str
    excerpt: Excerpt | None = None
    related: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Section:
    title: str
    sentences: Sequence[str] = ()
    table: Table | None = None
    folded: bool = False
    """Whether a short rendering may hide the section behind its title."""
    chart: Chart | None = None
    items: Sequence[FindingItem] = ()


@dataclass(frozen=True)
class Document:
    title: str
    verdict: Sequence[str]
    """What a reader in a hurry needs, in plain words."""
    sections: Sequence[Section] = field(default_factory=list)

    @property
    def charts(self) -> list[Chart]:
        return [section.chart for section in self.sections if section.chart is not None]
