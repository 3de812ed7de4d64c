"""Registry of the report formats: their names, their file suffixes and their renderers.

To add a format, write a module that makes a ``Rendered`` from the tables of a recording, from the outcome of a
comparison, or from both, and add a line to ``FORMATS``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gradprobe._files import check_writable, write_atomically
from gradprobe.analysis.comparison_outcome import ComparisonOutcome
from gradprobe.errors import GradprobeError
from gradprobe.report.formats import (
    brief,
    csv_tables,
    flow_svg,
    html_page,
    json_report,
    markdown,
    sarif,
    terminal,
    trace,
)
from gradprobe.report.formats.rendered import Content, Rendered, RenderOptions
from gradprobe.tables.recording_tables import RecordingTables


@dataclass(frozen=True)
class Format:
    """A report format; the renderer of a subject that it cannot show is None."""

    name: str
    suffixes: Sequence[str]
    render_recording: Callable[[RecordingTables, RenderOptions], Rendered] | None = None
    render_comparison: Callable[[ComparisonOutcome, RenderOptions], Rendered] | None = None

    def render(self, subject: RecordingTables | ComparisonOutcome, options: RenderOptions) -> Rendered:
        """Render ``subject``; raise ``GradprobeError`` if this format cannot show it."""
        if isinstance(subject, ComparisonOutcome):
            if self.render_comparison is None:
                raise GradprobeError(
                    f"cannot write as {self.name}: the format cannot show a comparison; {_list_choices(COMPARISON_FORMATS)}"
                )
            return self.render_comparison(subject, options)
        if self.render_recording is None:
            raise GradprobeError(
                f"cannot write as {self.name}: the format cannot show a recording; {_list_choices(RECORDING_FORMATS)}"
            )
        return self.render_recording(subject, options)

    def split_name(self, path: Path) -> tuple[str, str]:
        """Split the name of ``path`` into its stem and the suffix of this format, which may be empty."""
        suffix = max((one for one in self.suffixes if path.name.endswith(one)), key=len, default="")
        return path.name.removesuffix(suffix), suffix


FORMATS: Sequence[Format] = (
    Format("terminal", (".txt",), terminal.render_recording, terminal.render_comparison),
    Format("brief", (".brief.txt",), brief.render_recording),
    Format("markdown", (".md",), markdown.render_recording, markdown.render_comparison),
    Format("html", (".html",), html_page.render_recording, html_page.render_comparison),
    Format("json", (".json",), json_report.render_recording, json_report.render_comparison),
    Format("csv", (".csv",), csv_tables.render_recording, csv_tables.render_comparison),
    Format("sarif", (".sarif",), sarif.render_recording),
    Format("svg", (".svg",), flow_svg.render_recording),
    Format("trace", (".trace.json.gz", ".trace.json"), trace.render_recording),
)
RECORDING_FORMATS: Sequence[Format] = tuple(one for one in FORMATS if one.render_recording is not None)
COMPARISON_FORMATS: Sequence[Format] = tuple(one for one in FORMATS if one.render_comparison is not None)


def find_format(name: str) -> Format:
    """Return the format called ``name``."""
    return next(one for one in FORMATS if one.name == name)


def find_format_of_path(path: Path, among: Sequence[Format]) -> Format:
    """Return the format with the longest suffix that ``path`` ends in.

    Raises ``GradprobeError`` if there is none.
    """
    fitting = [(len(suffix), one) for one in among for suffix in one.suffixes if path.name.endswith(suffix)]
    if not fitting:
        cause = f"unknown report format {path.suffix!r}" if path.suffix else "its name has no suffix"
        raise GradprobeError(f"cannot write {path}: {cause}; {_list_choices(among)}")
    return max(fitting, key=lambda pair: pair[0])[1]


def render_text(subject: RecordingTables | ComparisonOutcome, used: Format) -> str:
    """Return the report of ``subject`` as a string, in a format that is text."""
    body = used.render(subject, RenderOptions()).body
    return body if isinstance(body, str) else body.decode()


def save_report(
    subject: RecordingTables | ComparisonOutcome,
    path: Path,
    used: Format,
    options: RenderOptions | None = None,
    *,
    force: bool = False,
) -> list[Path]:
    """Write the report of ``subject`` and its attachments, and return their paths.

    Raises ``GradprobeError`` if a file cannot be written, or exists and ``force`` is not set; then no file is touched.
    """
    check_writable(path, force=force)
    stem, suffix = used.split_name(path)
    rendered = used.render(subject, replace(options or RenderOptions(), stem=stem, suffix=suffix))
    files: dict[Path, Content] = {
        path: rendered.body,
        **{path.with_name(name): body for name, body in rendered.attachments.items()},
    }
    for file in files:
        check_writable(file, force=force)
    for file, content in files.items():
        write_atomically(file, content)
    return list(files)


def _list_choices(among: Sequence[Format]) -> str:
    return f"use one of {', '.join(suffix for one in among for suffix in one.suffixes)}"
