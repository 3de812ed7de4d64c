"""Source files as they ran: numbers, modes and findings at their lines, and what is known of files that have changed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import gradprobe
from gradprobe.__main__ import main
from gradprobe.errors import GradprobeError
from gradprobe.report.formats.annotated_source import render_source
from gradprobe.report.formats.text_style import TextStyle
from gradprobe.report.sections.source_view import COLUMNS, SourceFile, build_files
from gradprobe.tables.recording_tables import RecordingTables
from tests.report.reading import Page

PROGRAM = """\
import torch

def train(weight):
    kept = []
    for _ in range(12):
        loss = (weight * 2).exp().sum()
        loss.backward()
        kept.append(loss)
    return kept

weight = torch.ones(3, requires_grad=True)
kept = train(weight)
with torch.no_grad():
    weight.add_(1)
with torch.inference_mode():
    torch.ones(2) * 3
"""


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, RecordingTables]:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    with gradprobe.record(tmp_path / "r.gradprobe", level="ops"):
        exec(compile(PROGRAM, str(file), "exec"), {"torch": torch})
    return file, gradprobe.load(tmp_path / "r.gradprobe")._tables


def by_line(file: SourceFile) -> dict[int, dict[str, str]]:
    return {line.number: {"mode": line.mode, **dict(zip(COLUMNS, line.cells, strict=True))} for line in file.lines}


def test_each_line_has_its_numbers_mode_and_findings(recorded: tuple[Path, RecordingTables]) -> None:
    (file,) = build_files(recorded[1])
    lines = by_line(file)
    assert [line.number for line in file.lines] == [*range(1, 17)]
    assert (lines[6]["mode"], lines[6]["calls"], lines[6]["nodes"]) == ("grad", "36", "36")
    assert lines[6]["saved"].endswith(" B")
    assert (lines[14]["mode"], lines[14]["bumps"]) == ("no_grad", "1")
    assert (lines[16]["mode"], lines[16]["inference"]) == ("inference_mode", "2")
    assert lines[13]["time"]
    assert lines[2] == {"mode": "", **dict.fromkeys(COLUMNS, "")}
    found = {line.number: line.findings for line in file.lines if line.findings}
    assert [(severity, text[:6]) for severity, text in found[8]] == [("warning", "GP201:")]


def test_the_terminal_shows_findings_below_their_lines(recorded: tuple[Path, RecordingTables]) -> None:
    (file,) = build_files(recorded[1], "program.py")
    lines = render_source(file, TextStyle(80)).splitlines()
    assert max(map(len, lines)) <= 80
    at = next(number for number, line in enumerate(lines) if line.endswith("kept.append(loss)"))
    assert lines[at + 1].strip().startswith("^ warning GP201:")
    assert next(line for line in lines if "weight.add_(1)" in line).split()[-3:] == ["n", "14", "weight.add_(1)"]


def test_a_file_that_has_changed_shows_what_was_recorded(recorded: tuple[Path, RecordingTables]) -> None:
    path, tables = recorded
    path.write_text("# another file\n" + PROGRAM)
    (file,) = build_files(tables)
    assert file.is_partial
    texts = {line.number: line.text for line in file.lines}
    assert 2 not in texts
    assert texts[6] == "loss = (weight * 2).exp().sum()"
    path.unlink()
    assert build_files(tables) == [file]


def test_a_file_without_anything_recorded_is_an_error(recorded: tuple[Path, RecordingTables]) -> None:
    with pytest.raises(GradprobeError, match=r"nothing was recorded in such a file; use one of program\.py"):
        build_files(recorded[1], "other.py")


def test_long_files_are_shown_around_the_recorded_lines(recorded: tuple[Path, RecordingTables]) -> None:
    path, tables = recorded
    path.write_text(PROGRAM + "# no more\n" * 400)
    (file,) = build_files(tables)
    assert len(file.lines) == 416
    assert file.without_unused_lines().lines[-1].number == 20


def test_locations_of_the_page_lead_to_the_lines(
    recorded: tuple[Path, RecordingTables], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = recorded[0].parent
    assert main(["report", str(folder / "r.gradprobe"), "-o", str(folder / "r.html")]) == 0
    text = (folder / "r.html").read_text()
    assert 'href="#s0-8"' in text
    assert 'id="s0-8"' in text
    assert Page(text).loads == []
    linked, anchors = re.findall(r'href="#([^"]+)"', text), set(re.findall(r'id="([^"]+)"', text))
    assert set(linked) <= anchors
    findings = text[text.index('<ol class="findings">') : text.index("</ol>")]
    named = re.findall(r"<code>(?:<a [^>]*>)?(program\.py:\d+|[^<]*/program\.py:\d+)", findings)
    assert named
    assert len(re.findall(r"<code><a ", findings)) == len(named)
    assert main(["report", str(folder / "r.gradprobe"), "--source", "program.py"]) == 0
    assert "kept.append(loss)" in capsys.readouterr().out
    assert main(["report", str(folder / "r.gradprobe"), "--source", "program.py", "--format", "json"]) == 2
