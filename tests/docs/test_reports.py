"""The reports of this project: the index names them all, and each stands by itself."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

import gradprobe
from gradprobe.__main__ import main
from gradprobe.comparison.comparison_result import Comparison
from tests import warm_python
from tests.report.reading import Page
from tests.thoroughness import IS_THOROUGH

REPORTS = Path(gradprobe.__file__).parents[1] / "reports"
if not REPORTS.is_dir():
    pytest.skip("there is no folder of reports beside an installed package", allow_module_level=True)
sys.path.insert(0, str(REPORTS))
import make_reports  # noqa: E402

sys.path.remove(str(REPORTS))


def test_the_index_is_what_the_script_writes_and_every_file_is_there() -> None:
    index = (REPORTS / "README.md").read_text(encoding="utf-8")
    assert index == make_reports.index()
    linked = set(re.findall(r"\]\(([^)]+)\)", index))
    for name in linked | {f"{report.name}.md" for report in make_reports.REPORTS}:
        text = (REPORTS / name).read_text(encoding="utf-8")
        pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text) if name.endswith(".md") else []
        assert all((REPORTS / picture).is_file() for picture in pictures)
        assert name == "README.md" or not name.endswith(".md") or pictures
    assert {path.name for path in REPORTS.glob("*.html")} == {name for name in linked if name.endswith(".html")}


@pytest.mark.parametrize("report", make_reports.REPORTS, ids=lambda report: report.name)
def test_a_report_is_a_page_that_loads_nothing_and_names_no_place_outside_of_the_project(
    report: make_reports.Report,
) -> None:
    page = Page((REPORTS / f"{report.name}.html").read_text(encoding="utf-8"))
    assert page.loads == []
    assert len(page.tables) >= 4
    shown = [cell for table in page.tables.values() for row in table for cell, _ in row.values()]
    assert not [
        cell for cell in shown if re.search(r"(^|\s)(/(home|root|Users|opt|srv|var|mnt|work\w*)/|[A-Z]:\\)", cell)
    ]


@pytest.mark.parametrize("report", make_reports.REPORTS, ids=lambda report: report.name)
def test_the_commands_of_the_index_are_commands(
    report: make_reports.Report, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in report.commands:
        words = shlex.split(command.format(out="out", tmp="no-such-folder"))
        assert words[0] == "gradprobe"
        # The folder is missing, so a command that is understood is refused for that alone.
        if words[1] != "compare":
            assert main(words[1:]) == 2
            assert "no-such-folder" in capsys.readouterr().err


def test_the_report_of_the_comparison_is_what_its_numbers_make_today() -> None:
    """The committed page says what the code of today says of the committed numbers, word for word."""
    made = Comparison.load(REPORTS / "models.json").to_markdown()
    committed = (REPORTS / "models.md").read_text(encoding="utf-8")
    assert without_pictures(committed) == without_pictures(made)


def test_the_report_of_the_recording_has_the_structure_that_a_run_makes_today(tmp_path: Path) -> None:
    """The same headings, columns and sentences, whatever the numbers in them."""
    (report,) = (report for report in make_reports.REPORTS if report.name == "serve")
    for command in report.commands:
        words = shlex.split(command.format(out=tmp_path / report.name, tmp=tmp_path))
        if words[-1].endswith(".html") and not IS_THOROUGH:
            continue  # it says the same
        done = warm_python.run("-m", *words, cwd=REPORTS.parent)
        assert done.returncode == 0, done.stderr.decode()
    committed = (REPORTS / "serve.md").read_text(encoding="utf-8")
    assert structure(committed) == structure((tmp_path / "serve.md").read_text(encoding="utf-8"))


def without_pictures(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.startswith("![")]


def structure(text: str) -> list[str]:
    """Return headings, column names and sentences, each once and with numbers masked.

    Rows of tables vary with the run, and so does in how many threads and how often a finding was made.
    """
    lines = without_pictures(text)
    kept = []
    for number, line in enumerate(lines):
        is_head = number + 1 < len(lines) and re.fullmatch(r"[|:\- ]+", lines[number + 1])
        if not line.startswith("|") or is_head:
            masked = re.sub(r" \(\d+ times\)", "", line)
            masked = re.sub(r"(<|&lt;)?\d[\d,.]*( (ns|us|ms|s|B|kB|KiB|MiB|MB|%)\b)?", "N", masked)
            kept.append(re.sub(r"\s+", " ", masked.replace("|", " | ")).strip())
    return list(dict.fromkeys(kept))
