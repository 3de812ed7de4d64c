"""Exceptions are explained with lines that no frame shows: where a hook was registered, where a transform was called."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

import gradprobe


def find_lines(program: object, mark: str) -> set[int]:
    assert inspect.isfunction(program)
    lines, first = inspect.getsourcelines(program)
    return {number for number, line in enumerate(lines, first) if line.rstrip().endswith(f"# {mark}")}


def hook_of_other_shape() -> None:
    def total(grad: torch.Tensor) -> torch.Tensor:
        return grad.sum()

    hidden = nn.Linear(3, 3)(torch.ones(2, 3))
    hidden.register_hook(total)  # with
    hidden.sum().backward()  # at


def normalization_under_transform() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(values: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, values, (x,)).sum()  # at

    torch.func.grad(loss)(parameters, torch.ones(4, 3))  # with


@pytest.mark.parametrize(
    ("program", "code", "fix"),
    [(hook_of_other_shape, "GP631", "same shape"), (normalization_under_transform, "GP641", "replace_all_batch_norm")],
)
def test_the_line_is_related(program: object, code: str, fix: str) -> None:
    assert callable(program)
    with pytest.raises(RuntimeError), gradprobe.record(level="ops") as recording:
        program()
    found = recording.findings
    (finding,) = found[found["rule"] == code].to_dict("records")
    assert {finding["line"]} == find_lines(program, "at")
    assert find_lines(program, "with") <= {place["line"] for place in finding["related"]}
    assert fix in finding["fix"]
