"""The document as GitHub-flavoured Markdown, its long parts folded away."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import quote

from tabulate import tabulate

from gradprobe.analysis.comparison_outcome import ComparisonOutcome
from gradprobe.errors import GradprobeError
from gradprobe.report import charts
from gradprobe.report.document import Document, Excerpt, Section, Table
from gradprobe.report.formats.rendered import Rendered, RenderOptions
from gradprobe.report.sections import comparison_document as comparisons
from gradprobe.report.sections import recording_document
from gradprobe.report.units import pluralize
from gradprobe.tables.recording_tables import RecordingTables

_LONG = 60
"""Rows beyond which a table is folded away, whatever its section is."""


def render_recording(tables: RecordingTables, options: RenderOptions) -> Rendered:
    """The report of a recording."""
    return _written(
        recording_document.build_document(
            tables, top=options.top or recording_document.DEFAULT_MAX_ROWS, charts=options.charts is not None
        ),
        options,
    )


def render_comparison(outcome: ComparisonOutcome, options: RenderOptions) -> Rendered:
    """The report of a comparison."""
    return _written(comparisons.build_document(outcome), options)


def _written(document: Document, options: RenderOptions) -> Rendered:
    """The text, and beside it the charts where they are asked for."""
    if options.charts is None:
        return Rendered(render_document(document))
    if not charts.can_draw():
        raise GradprobeError(charts.INSTALL_HINT)
    if options.stem is None:
        raise GradprobeError("charts are files beside the report; name the report's own file with -o")
    draw = charts.render_svg if options.charts == "svg" else charts.render_png
    names = {chart.name: f"{options.stem}.{chart.name}.{options.charts}" for chart in document.charts}
    beside: dict[str, str | bytes] = {names[chart.name]: draw(chart) for chart in document.charts}
    return Rendered(render_document(document, {name: quote(file) for name, file in names.items()}), beside)


def render_document(document: Document, pictures: Mapping[str, str] = MappingProxyType({})) -> str:
    """Markdown that can be pasted into a pull request; ``pictures`` has the addresses of charts by their names."""
    parts = [f"## {_text(document.title)}", "", *(f"{_text(line)}  " for line in document.verdict)]
    for section in document.sections:
        parts += ["", *_section(section, pictures)]
    return "\n".join(parts) + "\n"


def _section(section: Section, pictures: Mapping[str, str]) -> list[str]:
    body = [f"- {_text(sentence)}" for sentence in section.sentences]
    for item in section.items:
        fix = f" {_text(item.fix)}" if item.fix else ""
        body.append(f"- **{item.severity}** {_text(item.rule)}: {_text(item.text)} ({_text(item.place)}){fix}")
        body += [f"  - {_text(role)}: {_text(at)}" for role, at in item.related]
        body += _source(item.excerpt) if item.excerpt is not None else []
    if section.chart is not None and section.chart.name in pictures:
        body += ["", f"![{_text(section.chart.caption)}]({pictures[section.chart.name]})"]
    if section.table is not None:
        body += ["", _table(section.table.with_bars())] if body else [_table(section.table.with_bars())]
    if section.folded or (section.table is not None and len(section.table.rows) > _LONG):
        return [f"<details><summary>{html.escape(section.title)}</summary>", "", *body, "", "</details>"]
    return [f"### {_text(section.title)}", "", *body]


def _source(excerpt: Excerpt) -> list[str]:
    """The lines as a block of code, which ends at no fence of their own."""
    lines = [
        f"  {'>' if number == excerpt.marked else ' '}{number:5} {line}"
        for number, line in enumerate(excerpt.lines, excerpt.first)
    ]
    fence = "`" * max(3, 1 + max((len(run) for line in lines for run in re.findall("`+", line)), default=0))
    return [f"  {fence}python", *lines, f"  {fence}"]


def _table(table: Table) -> str:
    text = tabulate(
        [[_text(cell) for cell in row] for row in table.rows],
        headers=table.columns,
        tablefmt="github",
        disable_numparse=True,
        colalign=["right" if column in table.numeric else "left" for column in table.columns] if table.rows else None,
    )
    return text + (f"\n\n{pluralize(table.left_out, 'more row')} left out." if table.left_out else "")


def _text(text: str) -> str:
    """``text`` so that Markdown shows it as it is: no tag, no emphasis, no cell border, no link, no formula."""
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", html.escape(text, quote=False))
