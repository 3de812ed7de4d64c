"""Custom operators behave the same while recording: gradients, autocast types, versions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

import gradprobe

_library = torch.library.Library("gradprobe_tests_library", "DEF")
_library.define("double(Tensor x) -> Tensor")
_library.impl("double", lambda x: x * 2, "CPU")
_library.define("square(Tensor x) -> Tensor")
_library.impl("square", lambda x: x @ x, "CPU")
_library.define("flat(Tensor(a) x) -> Tensor(a)")
_library.impl("flat", lambda x: x.view(-1), "CPU")
_defined: Any = torch.ops.gradprobe_tests_library


@torch.library.custom_op("gradprobe_tests_library::squared", mutates_args=())
def squared(x: torch.Tensor) -> torch.Tensor:
    return x @ x


@torch.library.custom_op("gradprobe_tests_library::raise_twice", mutates_args=("x", "more"))
def raise_twice(x: torch.Tensor, more: list[torch.Tensor]) -> torch.Tensor:
    x.add_(1)
    x.mul_(2)
    more[0].add_(1)
    return x.sum()


def ones(*, requires_grad: bool = True) -> torch.Tensor:
    return torch.ones(3, 3, requires_grad=requires_grad)


def kind(x: torch.Tensor) -> tuple[Any, ...]:
    node = None if x.grad_fn is None else x.grad_fn.name()
    version = None if x.is_inference() else x._version
    return x.tolist(), x.dtype, x.requires_grad, node, x._is_view(), version


def raised() -> Any:
    x, y = ones(requires_grad=False), ones(requires_grad=False)
    results = [raise_twice(x, [y]), raise_twice(x, [y, y])]
    return [kind(t) for t in (x, y, *results)]


PROGRAMS = {
    "double": lambda: kind(_defined.double(ones())),
    "square": lambda: kind(_defined.square(ones())),
    "square without gradients": lambda: kind(_defined.square(ones(requires_grad=False))),
    "flat": lambda: kind(_defined.flat(ones())),
    "squared": lambda: kind(squared(ones())),
    "squared without gradients": lambda: kind(squared(ones(requires_grad=False))),
    "raise_twice": raised,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_the_results_are_the_same(program: Callable[[], Any], mode: Any, cast: bool) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast), mode():
        expected = program()
        with gradprobe.record(level="ops") as recording:
            watched = program()

    assert watched == expected
    assert [n for n in recording._tables.contents[0].notes if n[0] == "fault"] == []


def test_bumps_of_a_custom_operator_are_counted_once() -> None:
    with gradprobe.record(level="ops") as recording:
        x, y = ones(requires_grad=False), ones(requires_grad=False)
        raise_twice(x, [y])
        raise_twice(x, [y])

    assert x._version + y._version == recording.ops["version_bumps"].sum()


def test_gradient_through_composite_custom_operator() -> None:
    """A gradient comes through an operator without a gradient of its own."""
    with gradprobe.record(level="ops"):
        x = ones()
        _defined.double(x).sum().backward()

    assert x.grad is not None
    assert x.grad.tolist() == torch.full((3, 3), 2.0).tolist()
