"""The neutral document between a recording and its renderers: sections of sentences and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """Cells are text, ready to read; ``numeric`` names the columns to align to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[str] = frozenset()
    left_out: int = 0


@dataclass(frozen=True)
class Section:
    title: str
    sentences: Sequence[str] = ()
    table: Table | None = None
    folded: bool = False
    """Whether a short rendering may hide the section behind its title."""


@dataclass(frozen=True)
class Document:
    title: str
    verdict: Sequence[str]
    """What a reader in a hurry needs, in plain words."""
    sections: Sequence[Section] = field(default_factory=list)
