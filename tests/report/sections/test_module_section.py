"""The tree of modules in the formats that show it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

import gradprobe
from gradprobe.report.formats.html_page import nest_rows
from gradprobe.report.formats.registry import find_format
from gradprobe.report.formats.rendered import RenderOptions
from gradprobe.report.formats.text_style import TextStyle
from gradprobe.report.sections import module_section
from gradprobe.tables.recording_tables import RecordingTables
from tests.report.reading import markdown_table, terminal_table


@pytest.fixture(scope="module")
def recording() -> gradprobe.Recording:
    model = nn.Sequential(nn.Sequential(*(nn.Linear(4, 4) for _ in range(9))), nn.Linear(4, 1))
    with gradprobe.record(level="ops") as recorded:
        model(torch.ones(2, 4)).sum().backward()
    return recorded


def render(recording: gradprobe.Recording, name: str, style: TextStyle | None = None) -> str:
    body = find_format(name).render(recording._tables, RenderOptions(style=style or TextStyle())).body
    assert isinstance(body, str)
    return body


def test_the_terminal_indents_and_fits_its_width(recording: gradprobe.Recording) -> None:
    text = render(recording, "terminal", TextStyle(width=80, is_terminal=True))
    part = text[text.index("\nModules\n") :].split("\n\n")[0]
    lines = part.splitlines()
    assert max(map(len, lines)) <= 80
    names = [found[0] for line in lines if (found := re.match(r" *(Sequential|\d)(?=  )", line))]
    assert names == ["Sequential", "  0", *(f"    {number}" for number in range(9)), "  1"]
    ends = {line.rindex(" of ") for line in lines if " of " in line[20:] and line[0] != "*"}
    assert len(ends) <= 2, "numbers are aligned to the right"
    assert "no room for own saved" in part


def test_every_format_has_the_same_numbers(recording: gradprobe.Recording) -> None:
    plain = terminal_table(render(recording, "terminal", TextStyle(shows_all=True)), "Modules")
    cells = markdown_table(render(recording, "markdown"), "### Modules")
    modules = recording.modules
    assert [row["calls"] for row in plain] == [row["calls"] for row in cells] == [f"{n:,}" for n in modules["count"]]
    assert [row["module"] for row in cells][1:] == modules["module"].tolist()[1:]
    page = render(recording, "html")
    tree = page[page.index('<div class="tree"') :]
    tree = tree[: tree.index("</section>")]
    shown = re.findall(r'<span class="spoken">calls </span>([\d,]+)</span>', tree)
    assert shown == [f"{n:,}" for n in modules["count"]]
    assert tree.count("<details") == tree.count("</details>") == 2


def test_the_largest_modules_are_shown_with_those_around_them(recording: gradprobe.Recording) -> None:
    section = module_section.build_section(recording._tables, 3)
    assert section is not None
    assert section.table is not None
    assert [at.name for at in section.table.tree] == ["(outside modules)", "Sequential", "0"]
    assert section.table.left_out == 10
    outside, outermost = nest_rows(section.table)
    assert (outside.rows, [row.name for row in outermost.rows]) == ([], ["0"])


def test_parameters_that_no_backward_pass_reached_are_named() -> None:
    model, other = nn.Linear(1, 1), nn.Bilinear(1, 1, 1)
    with gradprobe.record(level="ops") as recorded:
        other(torch.ones(1, 1), torch.ones(1, 1))
        model(torch.ones(1, 1)).sum().backward()
    assert "No backward pass reached 2 of 4 parameters that require grad." in str(recorded)


def test_where_no_backward_pass_began_gradients_are_not_missed() -> None:
    with gradprobe.record(level="ops") as recorded:
        nn.Linear(1, 1)(torch.ones(1, 1))
    section = module_section.build_section(recorded._tables, 15)
    assert section is not None
    assert section.table is not None
    assert {row[section.table.columns.index("gradient")] for row in section.table.rows} == {"-"}
    assert not any("backward" in sentence for sentence in section.sentences)


def test_without_modules_there_is_no_section() -> None:
    with gradprobe.record(level="ops") as recorded:
        torch.ones(1) + 1
    assert module_section.build_section(recorded._tables, 15) is None


def test_rows_of_several_processes_name_theirs(recording: gradprobe.Recording) -> None:
    (made,) = recording._tables.contents
    environment = {**made.meta["environment"], "process": 7}
    tables = RecordingTables([made, replace(made, meta={**made.meta, "environment": environment})], include_torch=None)
    section = module_section.build_section(tables, 100)
    assert section is not None
    assert section.table is not None
    outermost = [at.name for at in section.table.tree if at.depth == 0]
    own = recording.environment["process"]
    assert sorted(outermost) == sorted(
        f"{name}, process {number}" for name in ("(outside modules)", "Sequential") for number in (own, 7)
    )
