"""Neutral document between analysis and renderers: sections of sentences, tables, charts and findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from gradprobe.analysis.flow_boxes import FlowView

UNEXPLAINED = "unexplained"
"""Part of a difference that no mechanism explains, in charts of parts."""


class TreeRow(NamedTuple):
    """Place of a row in a tree: the number of rows around it, and its name without theirs."""

    depth: int
    name: str


@dataclass(frozen=True)
class Table:
    """A table whose cells are text, ready to read. The columns in ``numeric`` are aligned to the right.

    A cell that is a ``units.FormattedNumber`` keeps the number it shows.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[str] = frozenset()
    left_out: int = 0
    """Number of rows that were cut off at the end."""
    sums: int = 0
    """Number of rows at the end that sum up others."""
    tree: Sequence[TreeRow] = ()
    """Place of each row in a tree, in whose order they are, unless they are none."""
    bars: str | None = None
    """Name of a column of shares that plain text also shows as bars."""

    def with_bars(self) -> Table:
        """Return the table with the bars of text in one more column."""
        if self.bars is None:
            return self
        at = list(self.columns).index(self.bars)
        drawn = [[*row, "=" * round(30 * getattr(row[at], "value", 0))] for row in self.rows]
        return replace(self, columns=[*self.columns, ""], rows=drawn, bars=None)


@dataclass(frozen=True)
class Chart:
    """A chart as data.

    ``kind`` selects how to draw it; ``report/charts.py`` lists the keys of the ``rows`` of each kind.
    """

    name: str
    """Part of the file name if the chart is written to a file."""
    kind: Literal["timeline", "shares", "memory", "intervals", "parts", "points"]
    caption: str
    rows: Sequence[Mapping[str, Any]]
    unit: str = ""


@dataclass(frozen=True)
class Picture:
    """The flow of gradient as views of different depth, of which ``chosen`` is the position of the one to begin with."""

    name: str
    """Part of the file name if the picture is written to a file."""
    caption: str
    views: Sequence[FlowView]
    chosen: int = 0


@dataclass(frozen=True)
class Excerpt:
    """Lines of a source file; ``marked`` is the number of the line to point at."""

    first: int
    lines: Sequence[str]
    marked: int

    def narrow(self, context: int) -> Excerpt:
        """Return the lines that are at most ``context`` lines from the marked one."""
        first = max(self.first, self.marked - context)
        return Excerpt(first, self.lines[first - self.first : self.marked + context + 1 - self.first], self.marked)


@dataclass(frozen=True)
class FindingItem:
    """A finding as text: rule, severity, message, location and fix.

    ``excerpt`` is the source around it if it could be read; ``related`` lists other locations with their roles.
    ``evidence`` says what was seen, ``cost`` what the line costs, ``speed`` what the fix gains; each may be empty.
    """

    rule: str
    severity: str
    text: str
    place: str
    fix: str
    excerpt: Excerpt | None = None
    related: Sequence[tuple[str, str]] = ()
    evidence: str = ""
    cost: str = ""
    speed: str = ""

    @property
    def label(self) -> str:
        """Severity and rule; the severity alone where no rule is named."""
        return f"{self.severity} {self.rule}".rstrip()

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What was seen, what the line costs and what the fix gains, as far as it is known, each with its name."""
        named = (("seen", self.evidence), ("cost of this line", self.cost), ("speed", self.speed))
        return [(name, fact) for name, fact in named if fact]


@dataclass(frozen=True)
class Section:
    """A titled part of a document: sentences, findings, a chart or picture, and a table, in this order."""

    title: str
    sentences: Sequence[str] = ()
    table: Table | None = None
    folded: bool = False
    """True if the section is behind its title until a reader asks for it."""
    chart: Chart | None = None
    items: Sequence[FindingItem] = ()
    picture: Picture | None = None


@dataclass(frozen=True)
class Document:
    """A report: its title, its summary and its sections."""

    title: str
    verdict: Sequence[str]
    """Summary for a reader in a hurry, one sentence each."""
    sections: Sequence[Section] = field(default_factory=list)

    @property
    def charts(self) -> list[Chart]:
        """Return the charts of all sections."""
        return [section.chart for section in self.sections if section.chart is not None]
