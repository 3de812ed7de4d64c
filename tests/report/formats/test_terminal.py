"""The terminal report fits the width it has, has colours only on a terminal, and leaves out what says nothing."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from gradprobe.report.document import Document, Section, Table
from gradprobe.report.formats import terminal
from gradprobe.report.formats.rendered import RenderOptions
from gradprobe.report.formats.text_columns import format_table
from gradprobe.report.formats.text_style import TextStyle, choose_style, strip_colours
from gradprobe.report.units import FormattedLocation
from tests.report import samples
from tests.report.reading import terminal_table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wide_table() -> Table:
    columns = ("site", "function", *(f"number {at:02}" for at in range(12)), "nothing")
    place = FormattedLocation("/a/long/way/down/to/the/file/of/interest/models.py:310")
    rows = [(place, "forward_of_a_model_with_a_name", *(f"{at:,}" for at in range(1_000, 13_000, 1_000)), "0 B")] * 2
    return Table(columns, rows, frozenset(columns[2:]))


@pytest.mark.parametrize("width", [80, 100, 140, 200])
def test_tables_fit_the_width_and_name_the_columns_that_do_not(width: int) -> None:
    lines = format_table(wide_table(), TextStyle(width, whole="more --all"))
    assert max(map(len, lines)) <= width
    assert "models.py:310" in lines[2], "the end of a path is what matters"
    assert "..." in lines[2] or width >= 140
    shown = [name for name in wide_table().columns if name in lines[0]]
    named = [name for name in wide_table().columns if name in " ".join(lines[4:])]
    assert [*shown, *named] == [name for name in wide_table().columns if name != "nothing"]
    assert not named or " ".join(lines[4:]).endswith("; more --all shows them)")


def test_everything_is_shown_in_parts_with_the_first_column_in_each() -> None:
    lines = format_table(wide_table(), TextStyle(80, is_terminal=True, shows_all=True))
    assert max(map(len, lines)) <= 80
    headings = [line for line in lines if line.startswith("site")]
    assert len(headings) > 1
    assert all(name in " ".join(headings) for name in wide_table().columns)


def test_numbers_are_at_the_right() -> None:
    table = Table(("what", "n"), [("a", "1,000"), ("b", "7")], frozenset({"n"}))
    assert format_table(table, TextStyle(80)) == ["what      n", "----  -----", "a     1,000", "b         7"]


@pytest.mark.parametrize(
    ("environment", "has_colour"),
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({}, False)],
)
def test_colours_are_for_terminals_that_want_them(
    environment: dict[str, str], has_colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "132")
    assert choose_style(Terminal(), environment) == TextStyle(132, has_colour, is_terminal=True)
    assert choose_style(io.StringIO(), environment) == TextStyle()


def test_a_narrow_terminal_gets_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert choose_style(Terminal(), {}).width == 80


def test_colours_change_nothing_but_colours() -> None:
    tables = samples.tables([samples.finding("serve.py", 20)])
    plain = terminal.render_recording(tables, RenderOptions()).body
    coloured = terminal.render_recording(tables, RenderOptions(style=TextStyle(has_colour=True))).body
    assert isinstance(coloured, str)
    assert "\x1b[1;31merror leak:\x1b[0m" in coloured
    assert strip_colours(coloured) == plain


def test_folded_sections_are_named_and_shown_when_asked_for() -> None:
    document = Document("t", (), [Section("A", ["one"]), Section("B", table=wide_table(), folded=True)])
    short, whole = (
        terminal.render_document(document, TextStyle(shows_all=shown, whole="more --all")) for shown in (False, True)
    )
    assert short.splitlines()[-1] == "Folded; more --all shows it: B (2 rows)."
    assert len(terminal_table(whole, "B")) == 2


def test_the_source_around_a_finding_is_short_unless_everything_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "serve.py"
    file.write_text("".join(f"line_{number} = 0\n" for number in range(1, 40)))
    tables = samples.tables([samples.finding(file, 20)])
    short = terminal.render_recording(tables, RenderOptions()).body
    whole = terminal.render_recording(tables, RenderOptions(style=TextStyle(shows_all=True))).body
    assert [f"line_{number} " in str(short) for number in (18, 19, 20, 21, 22)] == [False, True, True, True, False]
    assert [f"line_{number} " in str(whole) for number in (17, 20, 23)] == [True, True, True]
