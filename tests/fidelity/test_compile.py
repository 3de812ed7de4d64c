"""``torch.compile`` makes the same of a program with and without a recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import gradprobe

WEIGHT = torch.ones(3, requires_grad=True)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def with_no_grad(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return x * WEIGHT


def with_inference_mode(x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return x * WEIGHT


def with_set_grad_enabled(x: torch.Tensor) -> torch.Tensor:
    with torch.set_grad_enabled(False):
        y = x * WEIGHT
    with torch.enable_grad():
        return y + x * WEIGHT


@torch.no_grad()
def decorated(x: torch.Tensor) -> torch.Tensor:
    return x * WEIGHT


def with_drop_ins(x: torch.Tensor) -> torch.Tensor:
    with gradprobe.no_grad():
        y = x * WEIGHT
        with gradprobe.enable_grad():
            z = x * WEIGHT
    with gradprobe.set_grad_enabled(False):
        y = y + x * WEIGHT
    return y.detach() + z


def with_drop_in_inference(x: torch.Tensor) -> torch.Tensor:
    with gradprobe.inference_mode():
        return x * WEIGHT


@gradprobe.no_grad()
def drop_in_decorated(x: torch.Tensor) -> torch.Tensor:
    return x * WEIGHT


@gradprobe.inference_mode()
def drop_in_inference_decorated(x: torch.Tensor) -> torch.Tensor:
    return x * WEIGHT


@gradprobe.set_grad_enabled(False)
def drop_in_set_decorated(x: torch.Tensor) -> torch.Tensor:
    return x * WEIGHT


@gradprobe.probe
def probed(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return x * WEIGHT


FUNCTIONS = [
    probed,
    with_no_grad,
    with_inference_mode,
    with_set_grad_enabled,
    decorated,
    with_drop_ins,
    with_drop_in_inference,
    drop_in_decorated,
    drop_in_inference_decorated,
    drop_in_set_decorated,
]


def kind(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.tolist(), tensor.requires_grad, tensor.is_inference()


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_a_whole_graph_is_compiled_while_recording(function: Callable[..., torch.Tensor]) -> None:
    graphs: list[Any] = []

    def backend(module: Any, inputs: Any) -> Any:
        graphs.append(module)
        return module.forward

    x = torch.arange(3.0)
    expected = kind(function(x))
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    with gradprobe.record(level="ops"):
        assert kind(compiled(x)) == expected
        assert kind(compiled(x)) == expected
    assert kind(compiled(x)) == expected
    assert len(graphs) == 1, "starting or stopping to watch compiled the function again"


def test_no_recompilation() -> None:
    """Functions compiled before are not compiled again."""
    graphs: list[Any] = []

    def backend(module: Any, inputs: Any) -> Any:
        graphs.append(module)
        return module.forward

    compiled = torch.compile(with_no_grad, fullgraph=True, backend=backend)
    x = torch.arange(3.0)
    compiled(x)
    with gradprobe.record():
        compiled(x)
    assert len(graphs) == 1


def test_compiler_blocks_hidden() -> None:
    """The compiler's own blocks are hidden unless requested."""
    compiled = torch.compile(with_no_grad, backend="aot_eager")
    with gradprobe.record() as recording:
        compiled(torch.arange(3.0))
    assert recording.transitions.empty
    torch._dynamo.reset()
    with gradprobe.record(include_torch=True) as recording:
        compiled(torch.arange(3.0))
    assert not recording.transitions.empty
