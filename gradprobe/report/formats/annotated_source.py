"""Annotated source of a file as text for a terminal."""

from __future__ import annotations

import textwrap

from gradprobe.report.formats.text_style import TextStyle
from gradprobe.report.sections.source_view import COLUMNS, SourceFile, SourceLine
from gradprobe.report.units import truncate, truncate_start

_MARKS = {"": " ", "grad": "g", "no_grad": "n", "inference_mode": "i"}
"""Letter of a mode, as a narrow band; another letter for several modes."""
_SEVERAL = "*"
_MIN_NOTE = 44
"""Width that the text of a finding has at least."""
LEGEND = "Modes: g grad, n no_grad, i inference_mode, * others or several. Columns without a number are left out."


def render_source(file: SourceFile, style: TextStyle) -> str:
    """Return the lines of ``file`` with their numbers, and the findings below their lines."""
    used = file.used
    widths = {at: max(len(COLUMNS[at]), *(len(line.cells[at]) for line in file.lines)) for at in used}
    head = " ".join(COLUMNS[at].rjust(widths[at]) for at in used)
    parts = [style.paint(truncate_start(file.name, style.width), "title"), *textwrap.wrap(LEGEND, style.width)]
    if file.is_partial:
        text = (
            "The file has changed since it was recorded, or is not here: only the lines that were recorded are shown."
        )
        parts += textwrap.wrap(text, style.width)
    parts += ["", f"{head}    line  source"]
    for line in file.lines:
        parts += _render_line(line, used, widths, style)
    return "\n".join(parts) + "\n"


def _render_line(line: SourceLine, used: list[int], widths: dict[int, int], style: TextStyle) -> list[str]:
    cells = " ".join(line.cells[at].rjust(widths[at]) for at in used)
    mark = _MARKS.get(line.mode, _SEVERAL)
    begin = f"{cells} "
    number = f" {line.number:6} "
    room = max(style.width - len(begin) - 1 - len(number) - 1, 20)
    shown = f"{begin}{style.paint(mark, line.mode)}{number} {truncate(line.text, room)}".rstrip()
    indent = " " * max(min(len(begin) + 3, style.width - _MIN_NOTE), 0)
    notes = [
        part
        for severity, text in line.findings
        for part in textwrap.wrap(f"^ {severity} {text}", style.width - len(indent))
    ]
    severity = line.findings[0][0] if line.findings else ""
    return [shown, *(indent + style.paint(note, severity) for note in notes)]
