"""The document as plain text for a terminal."""

from __future__ import annotations

import textwrap

from tabulate import tabulate

from gradprobe.report.document import Document, Section, Table
from gradprobe.report.units import many

_WIDTH = 100


def render(document: Document) -> str:
    """Plain text, no colour, tables aligned."""
    parts = [document.title, "=" * len(document.title), "", *map(_wrapped, document.verdict)]
    for section in document.sections:
        parts += ["", *_section(section)]
    return "\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    lines = [section.title, "-" * len(section.title), *(_wrapped(s, "* ") for s in section.sentences)]
    if section.table is not None:
        lines.append(_table(section.table))
    return lines


def _table(table: Table) -> str:
    # Without disable_numparse a function called "1e3" would be shown as 1000.
    text = tabulate(
        [[_clipped(cell, table.columns[i]) for i, cell in enumerate(row)] for row in table.rows],
        headers=table.columns,
        tablefmt="simple",
        disable_numparse=True,
        colalign=["right" if column in table.numeric else "left" for column in table.columns] if table.rows else None,
    )
    return text + (f"\n({many(table.left_out, 'more row')} left out)" if table.left_out else "")


def _clipped(cell: str, column: str, width: int = 48) -> str:
    """A cell of at most ``width`` characters; of a place the end counts, of anything else the beginning."""
    if len(cell) <= width:
        return cell
    return "..." + cell[3 - width :] if column == "site" else cell[: width - 3] + "..."


def _wrapped(sentence: str, bullet: str = "") -> str:
    return textwrap.fill(sentence, _WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet))
