"""Rules on graphs and gradients find programs of different shape with one cause, and leave look-alikes alone."""

from __future__ import annotations

import inspect

import pytest

import gradprobe
from gradprobe.capture.time_share import TimeShare
from gradprobe.recording.notes import NoteKind
from tests.analysis.findings.flow import (
    checkpoints,
    freezing,
    gradient_order,
    gradients,
    held_graphs,
    kept_state,
    loss_terms,
    lost_terms,
    modes,
    parallel_ways,
    unused_graphs,
    updates,
    values,
)
from tests.analysis.findings.flow.parts import Program

WRONG = {
    "GP204": unused_graphs.WRONG,
    "GP201": held_graphs.KEPT,
    "GP205": held_graphs.GROWING,
    "GP511": gradients.STARVED,
    "GP512": gradients.LEAVES,
    "GP513": gradients.REPLACED,
    "GP514": gradients.UNTAKEN,
    "GP503": modes.DEPENDENT,
    "GP504": modes.NOISY,
    "GP203": kept_state.CYCLES,
    "GP606": kept_state.COPIED,
    "GP515": updates.CLEARED,
    "GP516": updates.REBOUND,
    "GP517": updates.LOST,
    "GP518": [*loss_terms.WRONG, *lost_terms.WRONG],
    "GP519": freezing.WRONG,
    "GP521": gradient_order.MISTIMED,
    "GP522": gradient_order.OLD,
    "GP523": gradient_order.READ,
    "GP524": gradient_order.HOOKED,
    "GP525": parallel_ways.WRONG,
    "GP526": checkpoints.WRONG,
    "GP609": values.WRITTEN,
}
ALSO = {held_graphs.cached_results: "GP204"}
"""What is found besides: a graph that is kept and that no backward pass has ever used."""
WITHOUT_EVIDENCE = ("GP203", "GP606")
"""Rules whose message has the numbers."""
RIGHT = [
    *unused_graphs.RIGHT,
    *held_graphs.USED,
    *held_graphs.REPEATED,
    *gradients.RIGHT,
    *modes.RIGHT,
    *updates.RIGHT,
    *loss_terms.RIGHT,
    *lost_terms.RIGHT,
    *freezing.RIGHT,
    *gradient_order.RIGHT,
    *parallel_ways.RIGHT,
    *checkpoints.RIGHT,
    *values.RIGHT,
    *kept_state.RIGHT,
]


@pytest.fixture(autouse=True)
def _time_for_each_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no look at held graphs be left out: in a process as large as this one each takes long."""
    monkeypatch.setattr(TimeShare, "is_left", lambda share: True)


def record(program: Program) -> list[dict[str, object]]:
    with gradprobe.record(level="ops") as recording:
        program()
    (process,) = recording._tables.processes
    assert [text for kind, text, _ in process.contents.notes if kind == NoteKind.FAULT] == []
    found: list[dict[str, object]] = recording.findings.to_dict("records")
    return [finding for finding in found if finding["severity"] != "note"]


def marked(program: Program, mark: str) -> set[int]:
    lines, first = inspect.getsourcelines(program)
    return {number for number, line in enumerate(lines, first) if line.rstrip().endswith(f"# {mark}")}


@pytest.mark.parametrize(
    ("code", "program"),
    [pytest.param(code, one, id=f"{code}-{one.__name__}") for code, programs in WRONG.items() for one in programs],
)
def test_a_wrong_program_is_found_with_its_lines(code: str, program: Program) -> None:
    found = record(program)
    (finding,) = (finding for finding in found if finding["rule"] == code)
    assert {one["rule"] for one in found} <= {code, ALSO.get(program)}
    related = finding["related"]
    assert isinstance(related, list)
    if marked(program, "at"):
        assert {finding["line"]} == marked(program, "at")
    assert marked(program, "with") <= {place["line"] for place in related}
    assert finding["evidence"] or code in WITHOUT_EVIDENCE
    assert finding["fix"]


@pytest.mark.parametrize("program", [pytest.param(one, id=one.__name__) for one in RIGHT])
def test_a_right_program_that_looks_alike_has_nothing_above_a_note(program: Program) -> None:
    assert record(program) == []


def test_models_of_one_class_have_the_names_of_the_program() -> None:
    (finding,) = record(gradients.reference_that_a_function_scores_like_the_policy)
    assert str(finding["message"]).startswith(
        "reference.body.weight, reference.body.bias, reference.head.weight and 1 more"
    )
    assert "Freeze reference with" in str(finding["fix"])
    (finding,) = record(gradients.teacher_of_the_same_class)
    assert str(finding["message"]).startswith("teacher.body.weight")
