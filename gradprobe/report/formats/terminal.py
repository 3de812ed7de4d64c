"""The document as plain text for a terminal."""

from __future__ import annotations

import textwrap

from tabulate import tabulate

from gradprobe.analysis.comparison_outcome import ComparisonOutcome
from gradprobe.report.document import Document, FindingItem, Section, Table
from gradprobe.report.formats.rendered import Rendered, RenderOptions
from gradprobe.report.sections import comparison_document as comparisons
from gradprobe.report.sections import recording_document
from gradprobe.report.units import pluralize
from gradprobe.tables.recording_tables import RecordingTables

_WIDTH = 100


def render_recording(tables: RecordingTables, options: RenderOptions) -> Rendered:
    """The report of a recording."""
    return Rendered(
        render_document(
            recording_document.build_document(tables, top=options.top or recording_document.DEFAULT_MAX_ROWS)
        )
    )


def render_comparison(outcome: ComparisonOutcome, options: RenderOptions) -> Rendered:
    """The report of a comparison."""
    return Rendered(render_document(comparisons.build_document(outcome)))


def render_document(document: Document) -> str:
    """Plain text, no colour, tables aligned."""
    parts = [document.title, "=" * len(document.title), "", *map(_wrapped, document.verdict)]
    for section in document.sections:
        parts += ["", *_section(section)]
    return "\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    lines = [section.title, "-" * len(section.title), *(_wrapped(s, "* ") for s in section.sentences)]
    for item in section.items:
        lines += [*format_item(item), *_source(item)]
    if section.table is not None:
        lines.append(_table(section.table.with_bars()))
    return lines


def format_item(item: FindingItem, width: int = _WIDTH) -> list[str]:
    """A finding with the places that belong to it and what to do, without its source."""
    text = _wrapped(f"{item.severity} {item.rule}: {item.text} ({item.place})", "* ", width)
    related = [f"  {role}: {at}" for role, at in item.related]
    fix = [textwrap.indent(_wrapped(f"fix: {item.fix}", width=width - 2), "  ")] if item.fix else []
    return "\n".join([text, *related, *fix]).split("\n")


def _source(item: FindingItem) -> list[str]:
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
    return text + (f"\n({pluralize(table.left_out, 'more row')} left out)" if table.left_out else "")


def _clipped(cell: str, column: str, width: int = 48) -> str:
    """A cell of at most ``width`` characters; of a place the end counts, of anything else the beginning."""
    if len(cell) <= width:
        return cell
    return "..." + cell[3 - width :] if column == "site" else cell[: width - 3] + "..."


def _wrapped(sentence: str, bullet: str = "", width: int = _WIDTH) -> str:
    return textwrap.fill(sentence, width, initial_indent=bullet, subsequent_indent=" " * len(bullet))
