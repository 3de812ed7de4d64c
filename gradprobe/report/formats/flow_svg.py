"""The flow of gradient as an SVG picture by itself, for Markdown and other pages."""

from __future__ import annotations

from gradprobe.errors import GradprobeError
from gradprobe.report.flow_diagram import draw_flow
from gradprobe.report.formats.rendered import Rendered, RenderOptions
from gradprobe.report.sections import flow_section
from gradprobe.report.sections.recording_document import DEFAULT_MAX_ROWS
from gradprobe.tables.recording_tables import RecordingTables


def render_recording(tables: RecordingTables, options: RenderOptions) -> Rendered:
    """Render the flow of a recording. Raises ``GradprobeError`` if it has none."""
    section = flow_section.build_section(tables, DEFAULT_MAX_ROWS, options.depth)
    if section is None or section.picture is None:
        raise GradprobeError(
            "cannot draw the flow of gradient: the recording has none; record a program that trains with --level ops"
        )
    picture = section.picture
    caption = " ".join([picture.caption, *section.sentences])
    return Rendered(draw_flow(picture.views[picture.chosen], caption=caption) + "\n")
