"""The first screen: what is wrong with its evidence, cost and edit, the worst first; or what was looked at."""

from __future__ import annotations

from pathlib import Path

import torch

import gradprobe
from gradprobe.recording.flow import Frame, PathCounts
from gradprobe.report.formats.rendered import RenderOptions
from gradprobe.report.formats.terminal import render_recording
from gradprobe.report.sections import findings_section, memory_tables
from gradprobe.report.sections.recording_document import build_document
from gradprobe.tables.recording_tables import RecordingTables
from tests.report import samples


def test_findings_have_their_evidence_and_the_cost_of_their_line() -> None:
    section = findings_section.build_section(samples.tables([samples.finding("serve.py", 10)]), 10)
    assert section is not None
    assert section.items[0].facts == [
        ("seen", "3 graphs, says leak"),
        ("cost of this line", "1 block with 37.5 % of all thread time"),
    ]


def test_a_line_that_keeps_graphs_comes_first_and_says_how_much() -> None:
    layer, kept = torch.nn.Linear(3, 3), []
    with gradprobe.record(level="ops") as recording:
        for _ in range(6):
            loss = layer(torch.ones(2, 3)).exp().sum()
            loss.backward()
            kept.append(loss)
    section = findings_section.build_section(recording._tables, 10)
    assert section is not None
    (item,) = (item for item in section.items if item.rule == "GP201")
    assert "nodes" in item.evidence
    assert item.fix
    assert build_document(recording._tables).verdict[0].startswith("Found: ")


def test_where_nothing_is_wrong_it_says_what_was_looked_at_and_what_was_not() -> None:
    first = build_document(samples.tables()).verdict[0]
    assert first == (
        "Nothing was found at level graph, at which most mistakes cannot be seen. To look for them, "
        'record again with --level ops (in Python, level="ops"). Looked at: 4 blocks in 2 threads. '
        "Not seen: operators and tensors."
    )
    with gradprobe.record(level="ops") as recording:
        with torch.no_grad():
            torch.ones(3) * 2
    first = build_document(recording._tables).verdict[0]
    assert first.startswith("Nothing wrong was found. Looked at: 1 block in 1 thread, 2 operators at 1 line")


def test_in_a_terminal_findings_come_before_the_numbers() -> None:
    text = render_recording(samples.tables([samples.finding("serve.py", 10)]), RenderOptions()).body
    assert isinstance(text, str)
    assert text.splitlines()[3] == "Found: 1 error; the most harmful first."
    assert text.index("Findings") < text.index("of thread time in 2 threads") < text.index("Time by mode")


def test_the_excerpt_is_the_recorded_line_where_the_file_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("first\nsecond\nthird\n")
    same = findings_section.read_excerpt(str(file), 2, {(str(file), 2): "second"})
    changed = findings_section.read_excerpt(str(file), 2, {(str(file), 2): "another"})
    absent = findings_section.read_excerpt("/gone.py", 2, {("/gone.py", 2): "another"})
    assert same is not None
    assert list(same.lines) == ["first", "second", "third"]
    assert changed is not None
    assert absent is not None
    assert (changed.lines, changed.marked) == (absent.lines, absent.marked) == (["another"], 2)


def test_lines_of_libraries_are_below_the_line_that_called_them() -> None:
    library, mine = Frame("/v/site-packages/lib/net.py", 7, "forward"), Frame("/p/train.py", 3, "main")
    other = Frame("/v/site-packages/lib/ops.py", 9, "go")
    assert memory_tables.find_program_frame([library, other, mine]) == mine
    assert memory_tables.find_program_frame([library, other]) == library
    tables: RecordingTables = samples.tables()
    flow = tables.processes[0].flow
    for path, built, saved in (((library, mine), 4, 100), ((other, library, mine), 2, 50), ((mine,), 1, 0)):
        flow.paths[path] = PathCounts(built=built, saved_bytes=saved)
    section = memory_tables.build_section(tables, 10)
    assert section is not None
    assert section.table is not None
    names = [row[0] for row in section.table.rows]
    assert [row[1] for row in section.table.rows] == ["7", "4", "2", "7"]
    assert names[1].startswith("  in ")
    assert names[-1] == "total"
