"""A decorator that disables grad is reported where leaves get no gradient because of it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

import gradprobe


@torch.no_grad()
def add_one(x: torch.Tensor) -> torch.Tensor:
    return x + 1


@torch.no_grad()
def normalize(h: torch.Tensor) -> torch.Tensor:
    return h / h.norm()


@torch.no_grad()
def normalize_among_others(h: torch.Tensor) -> torch.Tensor:
    add_one(torch.zeros(2))
    return normalize(h + 1)


@torch.enable_grad()
def normalize_with_grad(h: torch.Tensor) -> torch.Tensor:
    add_one(torch.zeros(2))
    return h / h.norm()


@torch.no_grad()
def give_up(h: torch.Tensor) -> torch.Tensor:
    add_one(torch.zeros(2))
    raise ValueError("nothing to do")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.ones(3)), nn.Linear(3, 1)

    @torch.no_grad()
    def embed(self) -> torch.Tensor:
        return self.weight * 2

    def forward(self) -> torch.Tensor:
        out: torch.Tensor = self.head(self.embed())
        return out


class Teacher(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    @torch.no_grad()
    def forward(self) -> torch.Tensor:
        return self.weight * 2


def decorated_lines(train: Any, calm_calls: int) -> list[int]:
    """Return the lines of the decorators that GP105 names."""
    with gradprobe.record(level="ops") as recording:
        for _ in range(calm_calls):
            add_one(torch.zeros(2))
            with pytest.raises(ValueError, match="nothing"):
                give_up(torch.zeros(2))
        train().sum().backward()
    found = recording.findings
    related = found[found["rule"] == "GP105"]["related"].explode().dropna()
    return [place["line"] for place in related if place["role"] == "mode entered here"]


def first_line(function: Any) -> int:
    return inspect.getsourcelines(inspect.unwrap(function))[1]


@pytest.mark.parametrize("calm_calls", [0, 1, 20])
@pytest.mark.parametrize("function", [normalize, normalize_among_others])
def test_a_function_that_cuts_is_reported(function: Any, calm_calls: int) -> None:
    weight, head = torch.ones(3, requires_grad=True), nn.Linear(3, 1)

    lines = decorated_lines(lambda: head(function(weight * 2)), calm_calls)

    assert lines == [first_line(function)]


@pytest.mark.parametrize("calm_calls", [0, 20])
def test_a_method_that_cuts_parameters_in_forward_is_reported(calm_calls: int) -> None:
    assert decorated_lines(Model(), calm_calls) == [first_line(Model.embed)]


def test_a_fixed_target_is_not() -> None:
    student, teacher = nn.Linear(3, 3), Teacher()
    assert decorated_lines(lambda: student(torch.ones(3)) - teacher(), 0) == []


@pytest.mark.parametrize("calm_calls", [0, 20])
def test_functions_that_cut_nothing_are_not(calm_calls: int) -> None:
    """Grad is enabled in one, another gets tensors without grad, and the result of a third is only printed."""
    weight, head = torch.ones(3, requires_grad=True), nn.Linear(3, 1)

    def train() -> torch.Tensor:
        str(normalize(weight * 2))
        return head(normalize_with_grad(weight * 2) + normalize(torch.ones(3)))  # type: ignore[no-any-return]

    assert decorated_lines(train, calm_calls) == []
