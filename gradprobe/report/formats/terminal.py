"""Plain text for a terminal."""

from __future__ import annotations

import textwrap

from gradprobe.analysis.comparison_outcome import ComparisonOutcome
from gradprobe.report.document import Document, FindingItem, Section
from gradprobe.report.formats.rendered import Rendered, RenderOptions
from gradprobe.report.formats.text_blocks import format_excerpt, format_table
from gradprobe.report.sections import comparison_document, recording_document
from gradprobe.report.units import pluralize, truncate, truncate_start
from gradprobe.tables.recording_tables import RecordingTables

_WIDTH = 100
_CELL_WIDTH = 48


def render_recording(tables: RecordingTables, options: RenderOptions) -> Rendered:
    """Render the report of a recording."""
    top = options.top or recording_document.DEFAULT_MAX_ROWS
    return Rendered(render_document(recording_document.build_document(tables, top=top)))


def render_comparison(outcome: ComparisonOutcome, options: RenderOptions) -> Rendered:
    """Render the report of a comparison."""
    return Rendered(render_document(comparison_document.build_document(outcome)))


def render_document(document: Document) -> str:
    """Return ``document`` as plain text without colour, with aligned tables."""
    parts = [document.title, "=" * len(document.title), "", *map(_wrap, document.verdict)]
    for section in document.sections:
        parts += ["", *_render_section(section)]
    return "\n".join(parts) + "\n"


def _render_section(section: Section) -> list[str]:
    lines = [section.title, "-" * len(section.title), *(_wrap(sentence, "* ") for sentence in section.sentences)]
    for item in section.items:
        lines += [*format_item(item), *(format_excerpt(item.excerpt) if item.excerpt is not None else ())]
    if section.table is not None:
        table = section.table.with_bars()
        lines.append(format_table(table, "simple", _format_cell))
        if table.left_out:
            lines.append(f"({pluralize(table.left_out, 'more row')} left out)")
    return lines


def format_item(item: FindingItem, width: int = _WIDTH) -> list[str]:
    """Return the lines of a finding: its message, related locations and fix, without its source."""
    text = _wrap(f"{item.severity} {item.rule}: {item.text} ({item.place})", "* ", width)
    related = [f"  {role}: {at}" for role, at in item.related]
    fix = [textwrap.indent(_wrap(f"fix: {item.fix}", width=width - 2), "  ")] if item.fix else []
    return "\n".join([text, *related, *fix]).split("\n")


def _format_cell(text: str, column: str) -> str:
    """Shorten a cell; the end of a site is kept, of anything else the beginning."""
    return truncate_start(text, _CELL_WIDTH) if column == "site" else truncate(text, _CELL_WIDTH)


def _wrap(sentence: str, bullet: str = "", width: int = _WIDTH) -> str:
    return textwrap.fill(sentence, width, initial_indent=bullet, subsequent_indent=" " * len(bullet))
