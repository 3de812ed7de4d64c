"""``gradprobe.why(tensor)`` says why a live tensor has a graph or none, for each way in which it can lose it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch

import gradprobe

NET = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU())
BATCH = torch.ones(2, 3)


def here() -> int:
    return sys._getframe(1).f_lineno


def explain(make: Callable[[], torch.Tensor]) -> gradprobe.Explanation:
    with gradprobe.record(level="ops"):
        tensor = make()
        return gradprobe.why(tensor)


def under_no_grad() -> torch.Tensor:
    with torch.no_grad():
        hidden = NET(BATCH)
    return hidden * 2


@torch.no_grad()
def decorated() -> torch.Tensor:
    return NET(BATCH)


def in_inference_mode() -> torch.Tensor:
    with torch.inference_mode():
        return NET(BATCH)


@pytest.mark.parametrize(
    ("make", "cause", "fix", "role"),
    [
        (lambda: NET(BATCH).detach() * 2, "`detach` at", "Remove the `detach()`.", "cut here"),
        (
            under_no_grad,
            "runs under no_grad, entered at",
            "Do not enter no_grad at test_tensor_explanation.py",
            "mode entered here",
        ),
        (decorated, "(decorator)", "Do not enter no_grad", "mode entered here"),
        (lambda: NET(BATCH).argmax(1), "`argmax` at", "Use a differentiable operation", "cut here"),
        (lambda: (NET(BATCH), NET[0].weight.data)[1], "it is the memory of", "instead of `.data`", None),
        (lambda: (NET(BATCH), NET[0].weight.data * 2)[1], "reads it through `.data`", "instead of `.data`", "cut here"),
        (
            lambda: torch.tensor([NET(BATCH).sum().item()]),
            "it was made of numbers at",
            "`.item()`",
            "made of values here",
        ),
        (in_inference_mode, "under inference_mode, entered at", "t.clone()", "mode entered here"),
        (lambda: torch.zeros(2), "computes it from no other tensor", "", "created here"),
        (lambda: torch.zeros(2) + 1, "nothing that `add` at", "", "computed here"),
        (lambda: BATCH, "no operator computed it", "", None),
        (lambda: torch.nn.Parameter(torch.ones(2), requires_grad=False), "it is frozen", "requires_grad_(True)", None),
        (lambda: torch.ones(2, requires_grad=True), "no operator has taken", "", "created here"),
    ],
    ids=[
        *("detach", "no_grad", "decorator", "argmax", "data", "from data", "values", "inference"),
        *("created", "constants", "older", "frozen", "unused leaf"),
    ],
)
def test_a_tensor_without_a_graph_names_the_reason(
    make: Callable[[], torch.Tensor], cause: str, fix: str, role: str | None
) -> None:
    found = explain(make)
    assert cause in found.cause
    assert fix in found.fix
    assert bool(found.fix) == bool(fix)
    assert found.cause in str(found)
    assert role is None or role in {place.role for place in found.places}


def test_the_memory_of_a_result_that_data_reads_names_the_line_that_computed_it() -> None:
    with gradprobe.record(level="ops"):
        result, line = NET(BATCH), here()
        found = gradprobe.why(result.data)
    assert "it is the memory of what `relu` at" in found.cause
    assert [place.line for place in found.places] == [line]


def test_a_cut_names_the_line_of_the_cut_and_not_that_of_the_tensor() -> None:
    with gradprobe.record(level="ops"):
        with torch.no_grad():
            entered = here() - 1
            hidden, cut = NET(BATCH), here()
        later = (hidden + 1).exp()
        found = gradprobe.why(later)
    lines = {place.role: place.line for place in found.places}
    assert (lines["cut here"], lines["mode entered here"]) == (cut, entered)
    assert "Lost for: Sequential.0.weight, Sequential.0.bias" in str(found)


def test_a_tensor_with_a_graph_names_what_built_it_and_whose_gradient_it_carries() -> None:
    with gradprobe.record(level="ops"):
        loss, line = NET(BATCH).sum(), here()
        before = gradprobe.why(loss)
        loss.backward()
        after = gradprobe.why(loss)
    assert before.cause.startswith("It has a graph of 4 nodes, built by `sum` at")
    assert before.places[0] == gradprobe.Place("graph built here", __file__, line)
    assert before.fix == ""
    assert "Gradient for: Sequential.0.weight, Sequential.0.bias" in str(before)
    assert "no backward pass has started" in str(before)
    assert "Backward: `backward` at" in str(after)


def test_a_leaf_says_whether_backward_passes_reach_it() -> None:
    weight = torch.ones(3, requires_grad=True)
    with gradprobe.record(level="ops"):
        loss = (weight * 2).sum()
        before = gradprobe.why(weight)
        loss.backward()
        after = gradprobe.why(weight)
    assert before.cause == "No gradient arrives: the program ran no backward pass while the recording was open."
    assert after.cause == "Gradient arrives: 1 backward pass reached it."


def test_asking_changes_neither_the_tensor_nor_the_recording() -> None:
    def work(*, asks: bool) -> gradprobe.Recording:
        weight = torch.ones(3, requires_grad=True)
        with gradprobe.record(level="ops") as recording:
            loss = (weight.exp() + 1).sum()
            if asks:
                for tensor in (weight, loss, loss.detach()):
                    gradprobe.why(tensor)
            else:
                loss.detach()
            loss.backward()
        return recording

    asked, unasked = work(asks=True), work(asks=False)
    for name in ("target_op", "passage", "count"):
        assert sorted(asked.flow[name]) == sorted(unasked.flow[name])
    assert sorted(asked.ops["op"]) == sorted(unasked.ops["op"])
    assert asked.ops["count"].sum() == unasked.ops["count"].sum()


@pytest.mark.parametrize("level", [None, "modes", "graph"])
def test_without_an_open_recording_of_operators_the_error_says_how_to_open_one(level: str | None) -> None:
    if level is None:
        with pytest.raises(gradprobe.GradprobeError, match='no recording at level "ops" is open'):
            gradprobe.why(BATCH)
        return
    with gradprobe.record(level=level), pytest.raises(gradprobe.GradprobeError, match='level="ops"'):
        gradprobe.why(BATCH)


def test_what_is_not_a_tensor_is_refused() -> None:
    with gradprobe.record(level="ops"), pytest.raises(gradprobe.InvalidArgument, match=r"must be a torch\.Tensor"):
        gradprobe.why([BATCH])  # type: ignore[arg-type]


def test_of_several_open_recordings_the_longest_is_asked() -> None:
    with gradprobe.record(level="ops"):
        loss = NET(BATCH).sum()
        with gradprobe.record(level="ops"):
            assert "built by `sum`" in gradprobe.why(loss).cause
