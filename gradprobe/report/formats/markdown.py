"""GitHub-flavoured Markdown, with its long parts folded away."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import quote

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.comparison_outcome import ComparisonOutcome
from gradprobe.errors import GradprobeError
from gradprobe.report import charts
from gradprobe.report.document import Document, Excerpt, FindingItem, Section
from gradprobe.report.flow_diagram import draw_flow
from gradprobe.report.formats.inline_code import escape_markdown, make_code_span, to_markdown
from gradprobe.report.formats.rendered import Content, Rendered, RenderOptions
from gradprobe.report.formats.text_blocks import format_excerpt, format_table
from gradprobe.report.sections import comparison_document, recording_document
from gradprobe.tables.recording_tables import RecordingTables

_LONG = 60
"""Number of rows beyond which a table is folded away in any section."""


def render_recording(tables: RecordingTables, options: RenderOptions) -> Rendered:
    """Render the report of a recording."""
    top = options.top or recording_document.DEFAULT_MAX_ROWS
    has_charts = options.charts is not None
    document = recording_document.build_document(tables, top=top, charts=has_charts, depth=options.depth)
    return _render(document, options)


def render_comparison(outcome: ComparisonOutcome, options: RenderOptions) -> Rendered:
    """Render the report of a comparison."""
    return _render(comparison_document.build_document(outcome), options)


def _render(document: Document, options: RenderOptions) -> Rendered:
    """Render ``document``, with its charts as attachments if they are asked for."""
    if options.charts is None:
        return Rendered(render_document(document))
    if not charts.can_draw():
        raise GradprobeError("cannot draw charts: Altair or vl-convert is missing; pip install 'gradprobe[html]'")
    if options.stem is None:
        raise GradprobeError("cannot write charts: they are files beside the report; name the report's file with -o")
    draw = charts.render_svg if options.charts == "svg" else charts.render_png
    names = {chart.name: f"{options.stem}.{chart.name}.{options.charts}" for chart in document.charts}
    attachments: dict[str, Content] = {names[chart.name]: draw(chart) for chart in document.charts}
    for picture in [section.picture for section in document.sections if section.picture is not None]:
        names[picture.name] = f"{options.stem}.{picture.name}.{options.charts}"
        drawing = draw_flow(picture.views[picture.chosen], caption=picture.caption)
        attachments[names[picture.name]] = drawing if options.charts == "svg" else charts.convert_svg(drawing)
    return Rendered(render_document(document, {name: quote(file) for name, file in names.items()}), attachments)


def render_document(document: Document, pictures: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return Markdown that can be pasted into a pull request; ``pictures`` maps chart names to addresses."""
    parts = [f"## {to_markdown(document.title)}", "", *(f"{to_markdown(line)}  " for line in document.verdict)]
    for section in document.sections:
        parts += ["", *_render_section(section, pictures)]
    return "\n".join(parts) + "\n"


def _render_section(section: Section, pictures: Mapping[str, str]) -> list[str]:
    body = [f"- {to_markdown(sentence)}" for sentence in section.sentences]
    for item in section.items:
        body += _render_item(item)
    if section.chart is not None and section.chart.name in pictures:
        body += ["", f"![{escape_markdown(section.chart.caption)}]({pictures[section.chart.name]})"]
    if section.picture is not None and section.picture.name in pictures:
        body += ["", f"![{escape_markdown(section.picture.caption)}]({pictures[section.picture.name]})"]
    if section.table is not None:
        table = section.table.with_bars()
        body += (
            ["", format_table(table, "github", _format_cell)] if body else [format_table(table, "github", _format_cell)]
        )
        if table.left_out:
            body += ["", f"{pluralize(table.left_out, 'more row')} left out."]
    if section.folded or (section.table is not None and len(section.table.rows) > _LONG):
        return [f"<details><summary>{html.escape(section.title)}</summary>", "", *body, "", "</details>"]
    return [f"### {to_markdown(section.title)}", "", *body]


def _render_item(item: FindingItem) -> list[str]:
    head = f"- **{escape_markdown(item.label)}**"
    return [
        f"{head} at {make_code_span(item.place)}: {to_markdown(item.text)}",
        *(f"  - {name}: {to_markdown(fact)}" for name, fact in item.facts),
        *(f"  - {to_markdown(role)}: {make_code_span(at)}" for role, at in item.related),
        *([f"  - **Fix:** {to_markdown(item.fix)}"] if item.fix else []),
        *([] if item.excerpt is None else _render_excerpt(item.excerpt)),
    ]


def _render_excerpt(excerpt: Excerpt) -> list[str]:
    """Return the lines as a code block whose fence is longer than any run of backticks in them."""
    lines = format_excerpt(excerpt)
    fence = "`" * max(3, 1 + max((len(run) for line in lines for run in re.findall("`+", line)), default=0))
    return [f"  {fence}python", *lines, f"  {fence}"]


def _format_cell(text: str, column: str) -> str:
    return escape_markdown(text)
