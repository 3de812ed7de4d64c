"""What a report can be written as: the name of each format, the suffixes that mean it, and who renders it.

A format is a module that makes a ``Written`` of a recording's tables, of a comparison's outcome, or both, and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gradprobe._files import check_writable, write_atomically
from gradprobe.analysis.comparison_outcome import ComparisonOutcome
from gradprobe.errors import GradprobeError
from gradprobe.report.formats import csv_tables, html_page, json_report, markdown, sarif, terminal, trace
from gradprobe.report.formats.rendered import Rendered, RenderOptions
from gradprobe.tables.recording_tables import RecordingTables


@dataclass(frozen=True)
class Format:
    """``recording`` and ``comparison`` render one; None where the format cannot say it."""

    name: str
    suffixes: Sequence[str]
    recording: Callable[[RecordingTables, RenderOptions], Rendered] | None = None
    comparison: Callable[[ComparisonOutcome, RenderOptions], Rendered] | None = None

    def render(self, subject: RecordingTables | ComparisonOutcome, options: RenderOptions) -> Rendered:
        """The report of ``subject``. Raises ``GradprobeError`` where this format cannot say it."""
        if isinstance(subject, ComparisonOutcome):
            if self.comparison is None:
                raise GradprobeError(f"a comparison cannot be written as {self.name}; {_choices(COMPARISON_FORMATS)}")
            return self.comparison(subject, options)
        if self.recording is None:
            raise GradprobeError(f"a recording cannot be written as {self.name}; {_choices(RECORDING_FORMATS)}")
        return self.recording(subject, options)


FORMATS: Sequence[Format] = (
    Format("terminal", (".txt",), terminal.render_recording, terminal.render_comparison),
    Format("markdown", (".md",), markdown.render_recording, markdown.render_comparison),
    Format("html", (".html",), html_page.render_recording, html_page.render_comparison),
    Format("json", (".json",), json_report.render_recording, json_report.render_comparison),
    Format("csv", (".csv",), csv_tables.render_recording, csv_tables.render_comparison),
    Format("sarif", (".sarif",), sarif.render_recording),
    Format("trace", (".trace.json.gz", ".trace.json"), trace.render_recording),
)
RECORDING_FORMATS: Sequence[Format] = tuple(one for one in FORMATS if one.recording is not None)
COMPARISON_FORMATS: Sequence[Format] = tuple(one for one in FORMATS if one.comparison is not None)


def find_format(name: str) -> Format:
    """The format of that name."""
    return next(one for one in FORMATS if one.name == name)


def find_format_of_path(path: Path, among: Sequence[Format]) -> Format:
    """The format that the suffix of ``path`` means, the longest that fits. Raises ``GradprobeError`` where none does."""
    fitting = [(len(suffix), one) for one in among for suffix in one.suffixes if path.name.endswith(suffix)]
    if not fitting:
        raise GradprobeError(f"{path}: its suffix names no format; {_choices(among)}")
    return max(fitting, key=lambda pair: pair[0])[1]


def _split(path: Path, used: Format) -> tuple[str, str]:
    """The name of ``path`` without the suffix of its format, and the suffix."""
    suffix = max((one for one in used.suffixes if path.name.endswith(one)), key=len, default="")
    return path.name.removesuffix(suffix), suffix


def render_text(subject: RecordingTables | ComparisonOutcome, used: Format) -> str:
    """The report of ``subject`` in a format that is text, as it goes to no file."""
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
    """Writes the report of ``subject``, and what belongs beside it; returns the paths.

    Raises ``GradprobeError`` where a file cannot be written, or is there already, unless ``force``; then none is touched.
    """
    check_writable(path, force=force)
    stem, suffix = _split(path, used)
    written = used.render(subject, replace(options or RenderOptions(), stem=stem, suffix=suffix))
    files = {path: written.body, **{path.with_name(name): content for name, content in written.beside.items()}}
    for file in files:
        check_writable(file, force=force)
    for file, content in files.items():
        write_atomically(file, content)
    return list(files)


def _choices(among: Sequence[Format]) -> str:
    return f"use one of {', '.join(suffix for one in among for suffix in one.suffixes)}"
