"""Text for a terminal: as wide as it is, in colours where it has them, with what is less important folded away."""

from __future__ import annotations

import textwrap
from dataclasses import replace

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.comparison_outcome import ComparisonOutcome
from gradprobe.report.document import Document, FindingItem, Section
from gradprobe.report.formats.rendered import Rendered, RenderOptions
from gradprobe.report.formats.text_blocks import format_excerpt
from gradprobe.report.formats.text_columns import format_table
from gradprobe.report.formats.text_style import DEFAULT_WIDTH, TextStyle
from gradprobe.report.sections import comparison_document, recording_document
from gradprobe.tables.recording_tables import RecordingTables

_PLAIN = TextStyle()
_SHORT_CONTEXT = 1
"""Number of lines around a finding's line, unless everything is shown."""


def render_recording(tables: RecordingTables, options: RenderOptions) -> Rendered:
    """Render the report of a recording."""
    default = recording_document.ALL_ROWS if options.style.shows_all else recording_document.DEFAULT_MAX_ROWS
    document = recording_document.build_document(tables, top=options.top or default, depth=options.depth)
    return Rendered(render_document(document, options.style))


def render_comparison(outcome: ComparisonOutcome, options: RenderOptions) -> Rendered:
    """Render the report of a comparison."""
    style = replace(options.style, shows_all=True)
    return Rendered(render_document(comparison_document.build_document(outcome), style))


def render_document(document: Document, style: TextStyle = _PLAIN) -> str:
    """Return ``document`` as text with aligned tables; of folded sections only the names, unless everything is shown."""
    shown = [section for section in document.sections if style.shows_all or not section.folded]
    parts = [style.paint(document.title, "title"), "=" * len(document.title), ""]
    # What is wrong, and where, is to be seen without scrolling.
    leads = shown[:1] if shown and shown[0].items else []
    parts += [_wrap(sentence, width=style.width) for sentence in document.verdict[: 1 if leads else None]]
    for section in leads:
        parts += ["", *_render_section(section, style)]
    if leads and document.verdict[1:]:
        parts += ["", *(_wrap(sentence, width=style.width) for sentence in document.verdict[1:])]
    for section in shown[len(leads) :]:
        parts += ["", *_render_section(section, style)]
    hidden = [_describe_folded(section) for section in document.sections if section not in shown]
    if hidden:
        parts += [
            "",
            style.paint(_wrap(f"Folded; {style.whole} shows it: {', '.join(hidden)}.", width=style.width), "dim"),
        ]
    return "\n".join(parts) + "\n"


def _describe_folded(section: Section) -> str:
    rows = "" if section.table is None else f" ({pluralize(len(section.table.rows) + section.table.left_out, 'row')})"
    return f"{section.title}{rows}"


def _render_section(section: Section, style: TextStyle) -> list[str]:
    lines = [style.paint(section.title, "title"), "-" * len(section.title)]
    lines += [_wrap(sentence, "* ", style.width) for sentence in section.sentences]
    for item in section.items:
        lines += format_item(item, style.width, style)
        lines += _format_source(item, style)
    if section.table is not None:
        lines += format_table(section.table.with_bars(), style)
        if section.table.left_out:
            lines.append(style.paint(f"({pluralize(section.table.left_out, 'more row')} left out)", "dim"))
    return lines


def _format_source(item: FindingItem, style: TextStyle) -> list[str]:
    if item.excerpt is None:
        return []
    excerpt = item.excerpt if style.shows_all else item.excerpt.narrow(_SHORT_CONTEXT)
    lines = [line[: style.width] for line in format_excerpt(excerpt)]
    return [style.paint(line, "marked" if line.startswith("  >") else "dim") for line in lines]


def format_item(item: FindingItem, width: int = DEFAULT_WIDTH, style: TextStyle = _PLAIN) -> list[str]:
    """Return the lines of a finding: message, evidence, cost, related locations and fix, without its source."""
    text = _wrap(f"{item.label}: {item.text} ({item.place})", "* ", width)
    begin = f"* {item.label}:"
    if text.startswith(begin):
        text = f"* {style.paint(begin[2:], item.severity)}{text[len(begin) :]}"
    facts = [_wrap(f"{name}: {fact}", "  ", width) for name, fact in item.facts]
    related = [f"  {role}: {at}" for role, at in item.related]
    fix = [_wrap(f"fix: {item.fix}", "  ", width)] if item.fix else []
    return "\n".join([text, *facts, *related, *fix]).split("\n")


def _wrap(sentence: str, bullet: str = "", width: int = DEFAULT_WIDTH) -> str:
    return textwrap.fill(sentence, width, initial_indent=bullet, subsequent_indent=" " * len(bullet))
