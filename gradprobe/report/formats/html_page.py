"""The document as one self-contained HTML file, and as a fragment for a notebook."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.comparison_outcome import ComparisonOutcome
from gradprobe.analysis.time_by_mode import MODES
from gradprobe.report import charts, flow_diagram
from gradprobe.report.document import Document, Table
from gradprobe.report.formats.inline_code import to_html
from gradprobe.report.formats.rendered import Rendered, RenderOptions
from gradprobe.report.sections import comparison_document, recording_document
from gradprobe.report.sections.source_view import COLUMNS, SourceFile, build_files
from gradprobe.report.units import format_location, truncate
from gradprobe.tables.recording_tables import RecordingTables

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE_MAX_ROWS = 500
NOTEBOOK_MAX_ROWS = 10
_CELL_WIDTH = 240


def render_recording(tables: RecordingTables, options: RenderOptions) -> Rendered:
    """Render the report of a recording."""
    top = options.top or PAGE_MAX_ROWS
    sources = [file.without_unused_lines() for file in build_files(tables)]
    document = recording_document.build_document(tables, top=top, charts=True, depth=options.depth)
    return Rendered(render_page(document, sources))


def render_comparison(outcome: ComparisonOutcome, options: RenderOptions) -> Rendered:
    """Render the report of a comparison."""
    return Rendered(render_page(comparison_document.build_document(outcome)))


def render_page(document: Document, sources: Sequence[SourceFile] = ()) -> str:
    """Return a page with all its styles, scripts and data embedded; its policy forbids any request.

    Locations in it lead to the lines of ``sources``.
    """
    draws = charts.can_draw() and bool(document.charts)
    anchors = _name_anchors(sources)
    flow = _draw_flow(document, anchors)
    shown = [section for section in document.sections if draws or section.table or section.items or not section.chart]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            document=replace(document, sections=shown),
            sources=sources,
            source_columns=COLUMNS,
            anchors=anchors,
            flow=flow,
            lacks_charts=bool(document.charts) and not draws,
            style=_mark_safe(_read_template("page.css") + (flow_diagram.PAGE_STYLE if flow else "")),
            behaviour=_mark_safe(_read_template("page.js")),
            script=_mark_safe(charts.load_vega_script()) if draws else None,
            specifications={chart.name: _embed_json(charts.build_specification(chart)) for chart in document.charts}
            if draws
            else {},
            missing=charts.INSTALL_HINT,
        )
    )


@dataclass
class NestedRow:
    """A row of a tree with the rows in it."""

    name: str
    cells: Sequence[str]
    depth: int
    rows: list[NestedRow] = field(default_factory=list)


def nest_rows(table: Table) -> list[NestedRow]:
    """Return the outermost rows of a tree, with the others in them."""
    outermost: list[NestedRow] = []
    around: list[NestedRow] = []
    for at, cells in zip(table.tree, table.rows, strict=True):
        row = NestedRow(at.name, cells, at.depth)
        del around[at.depth :]
        (around[-1].rows if around else outermost).append(row)
        around.append(row)
    return outermost


def render_fragment(document: Document) -> str:
    """Return the output of a notebook cell, with pictures instead of scripts, which notebooks may not run."""
    pictures = (
        {chart.name: _mark_safe(charts.render_svg(chart)) for chart in document.charts} if charts.can_draw() else None
    )
    template = _environment().get_template("fragment.html.j2")
    return template.render(
        document=document,
        anchors={},
        style=_mark_safe(_read_template("fragment.css")),
        pictures=pictures,
        flow=[
            _mark_safe(flow_diagram.draw_flow(picture.views[picture.chosen]))
            for picture in [section.picture for section in document.sections]
            if picture is not None
        ],
    )


def _draw_flow(document: Document, anchors: Mapping[str, str]) -> list[Any]:
    """Return the views of the picture of a document."""
    return [
        _mark_safe(flow_diagram.draw_flow(view, is_alone=False, caption=picture.caption, anchors=anchors))
        for picture in [section.picture for section in document.sections]
        if picture is not None
        for view in picture.views
    ]


def _name_anchors(sources: Sequence[SourceFile]) -> dict[str, str]:
    """Return the anchor of each line of ``sources`` by its location as the tables show it."""
    return {
        format_location(file.path, line.number): f"s{at}-{line.number}"
        for at, file in enumerate(sources)
        for line in file.lines
        if line.mode or line.is_named
    }


def _embed_json(plain: dict[str, Any]) -> Any:
    """Return ``plain`` as JSON for a script element, escaped so that nothing in it can end the element."""
    text = json.dumps(plain, allow_nan=False, separators=(",", ":"))
    return _mark_safe(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _read_template(name: str) -> str:
    return (files("gradprobe.report") / "templates" / name).read_text(encoding="utf-8")


def _mark_safe(text: str) -> Any:
    """Mark ``text`` that gradprobe made itself to be put into a page without escaping."""
    from markupsafe import Markup

    return Markup(text)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    # Everything that is not marked safe is escaped: the names in a recording can be any text.
    environment = Environment(
        loader=FunctionLoader(_read_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["cell_width"] = _CELL_WIDTH
    environment.filters["truncate_cell"] = lambda text: truncate(text, _CELL_WIDTH)
    environment.filters["with_code"] = to_html
    environment.filters["mode_class"] = lambda mode: mode if mode in MODES else "several"
    environment.filters["nested"] = nest_rows
    environment.filters["boxes"] = lambda number: pluralize(number, "box", "boxes")
    environment.filters["rows"] = lambda number: pluralize(number, "more row")
    return environment
