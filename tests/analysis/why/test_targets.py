"""Stories of lines, parameters and modules say what the programs do, in faulty programs and in those that look alike."""

from __future__ import annotations

import json
import linecache
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gradprobe
from gradprobe.recording.notes import NoteKind
from gradprobe.result import Recording
from gradprobe.stored_recordings import StoredRecording

Run = Callable[..., Recording]

MODEL = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(3, 4)
            self.head = nn.Linear(4, 1)
        def forward(self, x):
            hidden = self.body(x)
            {cut}
            return self.head(hidden)

    def train(net, steps):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for step in range(steps):
            loss = net(torch.ones(2, 3)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    train(Net(), 4)
    {more}
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a program from a file under a recording at level ops."""

    def record(program: str, **names: str) -> Recording:
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(program).format(**names), encoding="utf-8")
        with gradprobe.record(level="ops") as recording:
            exec(compile(path.read_text(), str(path), "exec"), {"__name__": "__main__"})
        return recording

    return record


def line_of(text: str, path: Path) -> int:
    linecache.checkcache()
    return next(n for n, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def places(explanation: gradprobe.Explanation) -> dict[str, int]:
    return {place.role: place.line for place in explanation.places}


@pytest.mark.parametrize(
    ("cut", "how", "fix"),
    [
        ("hidden = hidden.detach()", "`detach` at", "Remove the `detach()`."),
        ("hidden = (hidden > 0).float()", "has no derivative", "surrogate gradient"),
        ("with torch.no_grad(): hidden = hidden * 2", "runs under no_grad, entered at", "Do not enter no_grad at"),
    ],
)
def test_a_starved_parameter_names_what_cuts_its_way(run: Run, tmp_path: Path, cut: str, how: str, fix: str) -> None:
    recording = run(MODEL, cut=cut, more="")
    found = recording.why("body.weight")
    assert found.cause.startswith("No gradient arrives: ")
    assert how in found.cause
    assert fix in found.fix
    assert places(found)["cut here"] == line_of(cut, tmp_path / "program.py")
    assert "0 of 4 steps" in str(found)
    # The head is trained in the same program.
    head = recording.why("Net.head.weight")
    assert head.cause == "Gradient arrives: 4 backward passes reached it."
    assert head.fix == ""
    assert "Path of the gradient: `linear` at" in str(head)


@pytest.mark.parametrize("harmless", ["pass", "print(hidden.detach().sum().item())", "hidden = hidden.relu()"])
def test_a_parameter_that_is_trained_has_no_fix(run: Run, harmless: str) -> None:
    found = run(MODEL, cut=harmless, more="").why("body.weight")
    assert found.cause == "Gradient arrives: 4 backward passes reached it."
    assert found.fix == ""


def test_a_module_counts_its_parameters_with_and_without_gradient(run: Run) -> None:
    recording = run(MODEL, cut="hidden = hidden.detach()", more="")
    assert recording.why("Net").cause.startswith("No gradient arrives at 2 of 4 parameters")
    assert "Without gradient: Net.body.weight, Net.body.bias" in str(recording.why("Net"))
    assert recording.why("body").cause.startswith("No gradient arrives at 2 of 2 parameters")
    assert recording.why("Net.head").cause == "Gradient arrives at all 2 parameters."


def test_a_line_says_what_passes_and_what_ends_there(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    recording = run(MODEL, cut="hidden = hidden.detach()", more="Net()(torch.ones(1, 3))")
    ends = recording.why(f"program.py:{line_of('hidden.detach', path)}")
    assert ends.cause.startswith("Gradient ends here: `detach` at")
    assert ends.fix == "Remove the `detach()`."
    passes = recording.why(f"{path}:{line_of('self.head(hidden)', path)}")
    assert passes.cause == "Gradient passes here."
    assert "`backward` at" in str(passes)
    lost = recording.why(f"program.py:{line_of('hidden = self.body', path)}")
    assert lost.cause == "A graph is built here, and no backward pass starts from what is computed from it."
    assert recording.why(f"program.py:{line_of('loss.backward()', path)}").cause == "A backward pass starts here."
    step = recording.why(f"program.py:{line_of('optimizer.step()', path)}")
    assert step.cause == "An optimizer steps here: 2 of 4 parameters ever had a gradient."
    call = recording.why(f"program.py:{line_of('Net()(torch', path)}")
    assert "4 nodes built in calls from here, 0 of them reached" in str(call)


def test_a_line_that_sets_a_mode_says_what_the_mode_cuts(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    cut = "with torch.no_grad():\n                hidden = hidden * 2"
    recording = run(MODEL, cut=cut, more="with torch.no_grad():  # harmless\n        torch.ones(1) + 1")
    found = recording.why(f"program.py:{line_of('with torch.no_grad():', path)}")
    assert found.cause.startswith("This line sets no_grad (with, 4 times); 4 operators ran directly under it")
    assert found.cause.endswith(f"program.py:{line_of('hidden * 2', path)}, before a loss.")
    harmless = recording.why(f"program.py:{line_of('# harmless', path)}")
    assert harmless.cause.endswith("and no graph was cut.")
    assert harmless.fix == ""


def test_what_keeps_graphs_is_told_with_the_line_that_built_them(run: Run, tmp_path: Path) -> None:
    more = "history = []\nfor _ in range(12):\n    history.append(Net()(torch.ones(1, 3)).sum())"
    recording = run(MODEL, cut="pass", more=more)
    found = recording.why(f"program.py:{line_of('history.append', tmp_path / 'program.py')}")
    assert "Kept: `history[...]` keeps" in str(found)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("bdy.weight", "the nearest are Net.body.weight"),
        ("Net.boddy", "the nearest are Net.body"),
        ("weight", "it may be Net.body.weight, Net.head.weight; name one of them"),
        ("program.py:2", "nothing was recorded there; the nearest lines are "),
        ("progam.py:2", "nothing was recorded in that file; the nearest are "),
        ("", "the recording has no such parameter or module"),
    ],
)
def test_a_target_that_is_not_there_is_refused_with_the_nearest_names(run: Run, target: str, message: str) -> None:
    recording = run(MODEL, cut="pass", more="")
    with pytest.raises(gradprobe.InvalidArgument) as refused:
        recording.why(target)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_recording_below_level_ops_has_its_modes_and_says_what_is_missing() -> None:
    with gradprobe.record(level="graph") as recording, torch.no_grad():
        pass
    with pytest.raises(gradprobe.InvalidArgument, match="record again with --level ops"):
        recording.why("weight")
    line = int(recording.sites["line"].iloc[0])
    found = recording.why(f"{Path(__file__).name}:{line}")
    assert found.cause == "This line sets no_grad (with, 1 time); what ran under it is known at level ops only."


def test_an_empty_recording_refuses_every_target() -> None:
    with gradprobe.record(level="ops") as recording:
        pass
    for target in ("a.py:1", "weight"):
        with pytest.raises(gradprobe.InvalidArgument):
            recording.why(target)


def test_several_processes_are_asked_together(tmp_path: Path) -> None:
    for name in ("a", "b"):
        layer = torch.nn.Linear(2, 2)
        with gradprobe.record(tmp_path / f"{name}.gradprobe", level="ops"):
            layer(torch.ones(1, 2)).sum().backward()
    merged = gradprobe.merge([tmp_path / "a.gradprobe", tmp_path / "b.gradprobe"])
    assert "1 other tensor of this name" in str(merged.why("Linear.weight"))


def test_names_that_steer_a_terminal_are_escaped_and_broken_notes_are_no_error() -> None:
    with gradprobe.record(level="ops") as recording:
        pass
    notes: list[tuple[NoteKind, list[Any]]] = [
        (NoteKind.FLOW_SITE, [1, "\x1b[2J.py", 3, "f\n", "aten.mul", "\x1b[1m"]),
        (NoteKind.FLOW_SITE, [2, "a.py", 4, "f", "backward", ""]),
        (NoteKind.FLOW_LEAF, [3, 77, "evil\x1b[2J.weight", [1], "\n", True]),
        (NoteKind.FLOW_EDGE, [3, 1, "carried"]),
        (NoteKind.FLOW_EDGE, [1, 1, "carried"]),
        (NoteKind.FLOW_EDGE, [2, 1, "no_grad"]),
        (NoteKind.FLOW_EDGE, [9, 8, "carried"]),
        (NoteKind.GRAPH_PATH, [1, [["\x1b[2J.py", 3, "f"]]]),
        (NoteKind.GRAPH_COUNT, [1, "reached"]),
    ]
    contents = recording._tables.contents[0]
    hostile = replace(contents, notes=[(kind.value, json.dumps(values), 5) for kind, values in notes])
    asked = Recording(StoredRecording([hostile]))
    for target in ("evil\x1b[2J.weight", "\x1b[2J.py:3", "a.py:4", "evil\x1b[2J"):
        text = str(asked.why(target))
        assert all(line.isprintable() for line in text.splitlines())


def test_story_of_a_refusal_names_the_lines_from_creation_to_use(run: Run, tmp_path: Path) -> None:
    program = """
        import torch

        class Rotary:
            def build(self):
                table = torch.ones(3)  # created
                self.table = table  # kept

        rotary = Rotary()
        with torch.inference_mode():  # mode
            rotary.build()
        try:
            rotary.table.add_(1)  # used
        except RuntimeError:
            print("refused")
    """
    recording, path = run(program), tmp_path / "program.py"
    found = places(recording.why(f"program.py:{line_of('# used', path)}"))
    marks = {"created here": "# created", "kept here": "# kept", "inference mode entered here": "# mode"}
    assert found.items() >= {role: line_of(mark, path) for role, mark in marks.items()}.items()
