"""A probe asks tensors and modules of the program nothing that these could hear."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

import gradprobe

LEVELS = ["modes", "graph", "ops"]


class Hearing(torch.Tensor):
    heard: list[Any] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.heard.append(function)
        return super().__torch_function__(function, types, args, kwargs or {})


class HearingMode(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.heard.append(function)
        return function(*args, **(kwargs or {}))


class Listing(torch.nn.Linear):
    listed = 0

    def parameters(self, recurse: bool = True) -> Any:
        self.listed += 1
        return super().parameters(recurse)

    def named_parameters(self, *arguments: Any, **named: Any) -> Any:
        self.listed += 1
        return super().named_parameters(*arguments, **named)


def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@pytest.mark.parametrize("level", LEVELS)
def test_function_subclass_sees_the_same(level: str) -> None:
    """A subclass with ``__torch_function__`` sees the same."""
    x = torch.ones(3, requires_grad=True).as_subclass(Hearing)
    Hearing.heard.clear()

    gradprobe.probe(level=level)(double)(x)

    assert [function.__name__ for function in Hearing.heard] == ["mul"]


@pytest.mark.parametrize("level", LEVELS)
def test_function_mode_sees_the_same(level: str) -> None:
    """A function mode sees the same."""
    x = torch.ones(3, requires_grad=True)
    with HearingMode() as mode:
        gradprobe.probe(level=level)(double)(x)

    assert [function.__name__ for function in mode.heard] == ["mul"]


@pytest.mark.parametrize("level", LEVELS)
def test_overridden_parameter_listing_not_called(level: str) -> None:
    """A module's override of the listing of its parameters is not called."""
    model = Listing(2, 2)

    @gradprobe.probe(level=level)
    def step(x: torch.Tensor) -> None:
        model(x)
        with torch.no_grad():
            model.weight.add_(1)

    step(torch.ones(2, 2))

    assert model.listed == 0
    assert level == "modes" or step.recording.calls["parameter_bumps"].tolist() == [1]
