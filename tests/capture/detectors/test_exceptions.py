"""Exceptions that gradients and inference tensors cause: annotated on their way, and otherwise as they were."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch

import gradprobe
from tests.capabilities import needs_saved

HAS_NOTES = sys.version_info >= (3, 11)


def cached() -> torch.Tensor:
    with torch.inference_mode():
        return torch.ones(3)


def saved_for_backward() -> None:
    weight, table = torch.ones(3, requires_grad=True), cached()
    weight * table


def changed_in_place() -> None:
    table = cached()
    table.add_(1)


def given_a_gradient() -> None:
    table = cached()
    table.requires_grad_()


def held_by_nothing() -> None:
    torch.ones(3, requires_grad=True) * cached()


def saved_tensor_changed() -> None:
    weight = torch.ones(3, requires_grad=True)
    hidden = weight.exp()
    hidden.add_(1)
    hidden.sum().backward()


def view_changed() -> None:
    base = torch.ones(3, 2, requires_grad=True) * 1
    with torch.no_grad():
        view = base[0]
    view.add_(1)


RAISING: dict[Callable[[], None], tuple[str, list[tuple[str, Callable[..., Any], int]]]] = {
    saved_for_backward: ("GP401", [("used here", saved_for_backward, 2), ("created here", cached, 2)]),
    changed_in_place: ("GP401", [("used here", changed_in_place, 2), ("created here", cached, 2)]),
    given_a_gradient: ("GP401", [("used here", given_a_gradient, 2), ("inference mode entered here", cached, 1)]),
    held_by_nothing: ("GP401", [("used here", held_by_nothing, 1), ("created here", cached, 2)]),
    saved_tensor_changed: ("GP601", [("modified in place here", saved_tensor_changed, 3)]),
    view_changed: ("GP602", [("used here", view_changed, 4), ("view made here", view_changed, 3)]),
}


def raised(program: Callable[[], None]) -> BaseException:
    try:
        program()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def lines_of(error: BaseException) -> list[tuple[str, int | None, str]]:
    """Its traceback from the program's function on."""
    frames = traceback.extract_tb(error.__traceback__)
    start = next(i for i, frame in enumerate(frames) if frame.name in {p.__name__ for p in RAISING})
    return [(frame.filename, frame.lineno, frame.name) for frame in frames[start:]]


PROGRAMS = [
    pytest.param(program, marks=needs_saved if program is saved_tensor_changed else (), id=program.__name__)
    for program in RAISING
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_exception_gets_a_note_with_the_lines_that_matter_and_stays_as_it_was(
    program: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    alone = raised(program)

    def watched() -> None:
        with gradprobe.record(level="ops") as recording:
            kept.append(recording)
            program()

    kept: list[gradprobe.Recording] = []
    with caplog.at_level(logging.WARNING, "gradprobe"):
        error = raised(watched)
    assert (type(error), str(error), error.args) == (type(alone), str(alone), alone.args)
    assert lines_of(error) == lines_of(alone)
    (note,) = error.__notes__ if HAS_NOTES else [record.getMessage() for record in caplog.records]
    rule, places = RAISING[program]
    assert note.startswith(f"gradprobe: {rule}: ")
    for role, function, line in places:
        assert f"{role} {__file__}:{function.__code__.co_firstlineno + line}" in note
    (finding,) = (row for row in kept[0].findings.to_dict("records") if row["severity"] != "note")
    assert finding["rule"] == rule


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_exception_that_the_program_catches_is_found_and_gets_no_note(program: Callable[[], None]) -> None:
    with gradprobe.record(level="ops") as recording:
        error = raised(program)
    assert not getattr(error, "__notes__", None)
    assert RAISING[program][0] in set(recording.findings["rule"])


def test_a_probed_function_annotates_too(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "gradprobe"):
        error = raised(gradprobe.probe(level="ops")(saved_for_backward))
    (note,) = error.__notes__ if HAS_NOTES else [record.getMessage() for record in caplog.records]
    assert f"created here {__file__}:{cached.__code__.co_firstlineno + 2}" in note


def test_what_a_probed_call_met_is_in_no_recording_that_begins_later() -> None:
    raised(gradprobe.probe(level="ops")(saved_for_backward))
    with gradprobe.record(level="ops") as recording:
        torch.ones(1)
    assert recording.findings.empty


def test_exceptions_of_another_kind_are_left_alone() -> None:
    def fails() -> None:
        table = cached()
        raise RuntimeError(f"something else with {table.sum()}")

    with gradprobe.record(level="ops"):
        error = raised(fails)

    def watched() -> None:
        with gradprobe.record(level="ops"):
            fails()

    assert not getattr(error, "__notes__", None)
    assert not getattr(raised(watched), "__notes__", None)


def test_nothing_is_traced() -> None:
    """A trace function would make the program's Python code slow, and a program may ask for it."""
    with gradprobe.record(level="ops"):
        kept = cached()
        with torch.no_grad():
            assert sys.gettrace() is None
    del kept


def test_a_trace_function_of_the_program_stays() -> None:
    def mine(frame: Any, event: str, argument: Any) -> None:
        return None

    sys.settrace(mine)
    try:
        with gradprobe.record(level="ops"):
            kept = cached()
            assert sys.gettrace() is mine
        assert sys.gettrace() is mine
    finally:
        sys.settrace(None)
    del kept


def test_a_block_that_an_earlier_recording_saw_entered_is_not_blamed() -> None:
    earlier = gradprobe.record(level="ops")
    earlier.start()
    block = torch.no_grad()
    with block:
        earlier.stop()
    with gradprobe.record(level="ops") as recording:
        loss = torch.ones(3, requires_grad=True).detach().sum()
        try:
            loss.backward()
        except RuntimeError as error:
            print(error)
    (finding,) = recording.findings.to_dict("records")
    assert "It was computed from a detached tensor." in finding["message"]


def test_an_exception_that_load_state_dict_collects_is_found() -> None:
    """PyTorch catches it, and raises a text with it and others at the end."""
    model = torch.nn.Linear(2, 2)
    with gradprobe.record(level="ops") as recording:
        with torch.inference_mode():
            kept = {name: value.clone() for name, value in model.state_dict().items()}
        error = raised(lambda: model.load_state_dict(kept, assign=True))
        other = raised(lambda: model.load_state_dict({}))
    assert "While copying" in str(error)
    assert "Missing key" in str(other)
    assert recording.findings["rule"].tolist() == ["GP401"]


def test_each_exception_counts_although_it_may_be_where_a_freed_one_was() -> None:
    result = torch.ones(2).sum()
    with gradprobe.record(level="ops") as recording:
        for _ in range(5):
            try:
                result.backward()
            except RuntimeError as error:
                print(error)
    assert recording.findings["count"].tolist() == [5]
