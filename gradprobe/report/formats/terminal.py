"""The document as plain text for a terminal."""

from __future__ import annotations

import textwrap

from tabulate import tabulate

from gradprobe.analysis.comparison_outcome import Outcome
from gradprobe.report.document import Document, Item, Section, Table
from gradprobe.report.formats.rendered import Options, Written
from gradprobe.report.sections import comparison_document as comparisons
from gradprobe.report.sections import recording_document
from gradprobe.report.units import many
from gradprobe.tables.recording_tables import Tables

_WIDTH = 100


def recording(tables: Tables, options: Options) -> Written:
    """The report of a recording."""
    return Written(render(recording_document.document(tables, top=options.top or recording_document.TOP)))


def comparison(outcome: Outcome, options: Options) -> Written:
    """The report of a comparison."""
    return Written(render(comparisons.document(outcome)))


def render(document: Document) -> str:
    """Plain text, no colour, tables aligned."""
    parts = [document.title, "=" * len(document.title), "", *map(_wrapped, document.verdict)]
    for section in document.sections:
        parts += ["", *_section(section)]
    return "\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    lines = [section.title, "-" * len(section.title), *(_wrapped(s, "* ") for s in section.sentences)]
    for item in section.items:
        lines += [*item_lines(item), *_source(item)]
    if section.table is not None:
        lines.append(_table(section.table.with_bars()))
    return lines


def item_lines(item: Item, width: int = _WIDTH) -> list[str]:
    """A finding with the places that belong to it and what to do, without its source."""
    text = _wrapped(f"{item.severity} {item.rule}: {item.text} ({item.place})", "* ", width)
    related = [f"  {role}: {at}" for role, at in item.related]
    fix = [textwrap.indent(_wrapped(f"fix: {item.fix}", width=width - 2), "  ")] if item.fix else []
    return "\n".join([text, *related, *fix]).split("\n")


def _source(item: Item) -> list[str]:
    if item.excerpt is None:
        return []
    return [
        f"  {'>' if number == item.excerpt.marked else ' '}{number:5} {line}"
        for number, line in enumerate(item.excerpt.lines, item.excerpt.first)
    ]


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


def _wrapped(sentence: str, bullet: str = "", width: int = _WIDTH) -> str:
    return textwrap.fill(sentence, width, initial_indent=bullet, subsequent_indent=" " * len(bullet))
