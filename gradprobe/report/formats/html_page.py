"""The document as one HTML file that needs nothing else, and as a piece of a notebook."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from gradprobe.analysis.comparison_outcome import ComparisonOutcome
from gradprobe.report import charts
from gradprobe.report.document import Document
from gradprobe.report.formats.rendered import Rendered, RenderOptions
from gradprobe.report.sections import comparison_document as comparisons
from gradprobe.report.sections import recording_document
from gradprobe.report.units import pluralize
from gradprobe.tables.recording_tables import RecordingTables

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE_MAX_ROWS = 500
NOTEBOOK_MAX_ROWS = 10
_CLIP = 240


def render_recording(tables: RecordingTables, options: RenderOptions) -> Rendered:
    """The report of a recording."""
    return Rendered(
        render_page(recording_document.build_document(tables, top=options.top or PAGE_MAX_ROWS, charts=True))
    )


def render_comparison(outcome: ComparisonOutcome, options: RenderOptions) -> Rendered:
    """The report of a comparison."""
    return Rendered(render_page(comparisons.build_document(outcome)))


def render_page(document: Document) -> str:
    """A page with all of its styles, scripts and data in it; its policy forbids it any request."""
    draws = charts.can_draw() and bool(document.charts)
    shown = [section for section in document.sections if draws or section.table or section.items or not section.chart]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            document=replace(document, sections=shown),
            lacks_charts=bool(document.charts) and not draws,
            style=_raw(_template("page.css")),
            behaviour=_raw(_template("page.js")),
            script=_raw(charts.load_vega_script()) if draws else None,
            specifications={c.name: _embedded(charts.build_specification(c)) for c in document.charts} if draws else {},
            missing=charts.INSTALL_HINT,
        )
    )


def render_fragment(document: Document) -> str:
    """What a notebook shows below a cell: pictures instead of scripts, which notebooks may not run."""
    pictures = {c.name: _raw(charts.render_svg(c)) for c in document.charts} if charts.can_draw() else None
    template = _environment().get_template("fragment.html.j2")
    return template.render(document=document, style=_raw(_template("fragment.css")), pictures=pictures)


def _embedded(plain: dict[str, Any]) -> Any:
    """``plain`` as JSON for a script element, which nothing in it can end."""
    text = json.dumps(plain, allow_nan=False, separators=(",", ":"))
    return _raw(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _template(name: str) -> str:
    return (files("gradprobe.report") / "templates" / name).read_text(encoding="utf-8")


def _raw(text: str) -> Any:
    """``text`` of our own making, to be put into a page as it is."""
    from markupsafe import Markup

    return Markup(text)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    # Everything is escaped that is not marked as ours: names in a recording are anybody's.
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["clip"] = _CLIP
    environment.filters["clipped"] = lambda text: text if len(text) <= _CLIP else f"{text[: _CLIP - 3]}..."
    environment.filters["rows"] = lambda number: pluralize(number, "more row")
    return environment
