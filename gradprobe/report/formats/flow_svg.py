"""The flow of gradient as an SVG picture by itself, for Markdown and other pages."""

from __future__ import annotations

from gradprobe.report.flow_diagram import draw_flow, draw_message
from gradprobe.report.formats.rendered import Rendered, RenderOptions
from gradprobe.report.sections import flow_section
from gradprobe.report.sections.recording_document import DEFAULT_MAX_ROWS
from gradprobe.tables.recording_tables import RecordingTables

_NOTHING = "The recording has no flow of gradient: record a program that trains with --level ops."


def render_recording(tables: RecordingTables, options: RenderOptions) -> Rendered:
    """Render the flow of a recording; a picture that says so if it has none."""
    section = flow_section.build_section(tables, DEFAULT_MAX_ROWS, options.depth)
    if section is None or section.picture is None:
        return Rendered(draw_message(_NOTHING) + "\n")
    picture = section.picture
    caption = " ".join([picture.caption, *section.sentences])
    return Rendered(draw_flow(picture.views[picture.chosen], caption=caption) + "\n")
