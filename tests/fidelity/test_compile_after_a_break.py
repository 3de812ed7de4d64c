"""Eager calls in the middle of a compiled function compile no code of gradprobe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import gradprobe


class Quiet(torch.no_grad):
    """The compiler does not know it, and has it run as it is."""


def backward_in_the_middle(x: torch.Tensor) -> Any:
    y = (x * 2).sum()
    y.backward()
    return y


def a_mode_of_its_own(x: torch.Tensor) -> Any:
    with Quiet():
        return x * 2


def a_version_that_cannot_be_read(x: torch.Tensor) -> Any:
    with torch.inference_mode():
        made = torch.ones(2)
    torch._dynamo.graph_break()
    try:
        made._version
    except RuntimeError:
        return x + 1


def graphs_of(function: Callable[[torch.Tensor], Any]) -> list[str]:
    graphs: list[str] = []

    def backend(module: Any, inputs: Any) -> Any:
        graphs.append(module.code)
        return module.forward

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.compile(function, backend=backend)(torch.ones(2, requires_grad=True))
    return [*graphs, str(torch._dynamo.utils.counters["stats"])]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("level", ["graph", "ops"])
@pytest.mark.parametrize("function", [backward_in_the_middle, a_mode_of_its_own, a_version_that_cannot_be_read])
def test_the_graphs_around_a_break_are_the_same(function: Callable[[torch.Tensor], Any], level: str) -> None:
    expected = graphs_of(function)
    with gradprobe.record(level=level) as recording:
        watched = graphs_of(function)

    assert watched == expected
    assert [n for n in recording._tables.contents[0].notes if n[0] == "fault"] == []
