"""Suite of single operators on tensors so small that only the fixed cost per operator matters.

`fresh` inputs are results of an operator of the same call, as most inputs in a model are: under inference mode they are
inference tensors. The others were created before, as weights and inputs are. `parameter` is an input that requires grad.
Each call repeats its operator, so that the loop around it is negligible.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- its customary name
from torch import Tensor

from gradprobe.comparison.workloads.workload import Workload, WorkloadCall

OPS_PER_CALL = 10
OPS_PER_MIXTURE = 16

InputFactory = Callable[[], tuple[Any, ...]]
OpCase = tuple[InputFactory, Callable[..., Any]]


def build_workloads() -> list[Workload]:
    """Return a workload for each operator."""
    return [
        Workload(name, partial(_build_repeated, *step))
        for group in OP_GROUPS
        for name, step in list_group_cases(group).items()
    ]


def list_group_cases(group: str) -> dict[str, OpCase]:
    """Return the operators of a group, each also with a parameter as input if that makes it build a graph."""
    found = {}
    for name, (make, step) in OP_GROUPS[group].items():
        found[name] = make, step
        if group != "factories" and name not in OPS_WITHOUT_GRADIENT and "long-lived" not in name:
            found[f"{name}, parameter"] = _use_parameter(make), step
    return found


def build_mixtures(number: int, *, seed: int) -> list[Workload]:
    """Return workloads of many different operators, each called once, as models call them.

    An operator repeated in a loop runs from the nearest cache; in a model it costs twice as much. Each mixture draws from
    three of the groups, so that mechanisms occur in different proportions.
    """
    order = random.Random(seed)
    drawn = []
    for index in range(number):
        pool = [step for group in order.sample(sorted(OP_GROUPS), 3) for step in list_group_cases(group).values()]
        drawn.append(
            Workload(f"mixture {index}", partial(_build_mixture, order.sample(pool, min(OPS_PER_MIXTURE, len(pool)))))
        )
    return drawn


def _build_mixture(steps: list[OpCase]) -> WorkloadCall:
    torch.manual_seed(0)
    calls = [(step, make()) for make, step in steps]

    def call() -> list[Any]:
        # All results and their graphs are referenced until the end, as those of a model are.
        return [step(*inputs) for step, inputs in calls]

    return call


def _build_repeated(make: InputFactory, step: Callable[..., Any]) -> WorkloadCall:
    torch.manual_seed(0)
    inputs = make()

    def call() -> Any:
        for _ in range(OPS_PER_CALL):
            result = step(*inputs)
        return result

    return call


def _vector() -> tuple[Tensor]:
    return (torch.rand(8),)


def _vectors() -> tuple[Tensor, Tensor]:
    return torch.rand(8), torch.rand(8)


def _matrix() -> tuple[Tensor]:
    return (torch.rand(4, 4),)


def _matrices() -> tuple[Tensor, Tensor]:
    return torch.rand(4, 4), torch.rand(4, 4)


def _batches() -> tuple[Tensor, Tensor]:
    return torch.rand(2, 4, 4), torch.rand(2, 4, 4)


def _use_parameter(make: InputFactory) -> InputFactory:
    """Return a factory of the same inputs, with the last floating-point one turned into a parameter."""

    def make_inputs() -> tuple[Any, ...]:
        inputs = list(make())
        last = max(i for i, value in enumerate(inputs) if value.is_floating_point())
        inputs[last] = torch.nn.Parameter(inputs[last])
        return tuple(inputs)

    return make_inputs


def _affine() -> tuple[Tensor, Tensor, Tensor]:
    return torch.rand(4, 4), torch.rand(4, 4), torch.rand(4)


def _table() -> tuple[Tensor, Tensor]:
    return torch.arange(4), torch.rand(8, 4)


def _heads() -> tuple[Tensor, Tensor, Tensor]:
    return torch.rand(1, 2, 4, 4), torch.rand(1, 2, 4, 4), torch.rand(1, 2, 4, 4)


def _image() -> tuple[Tensor, Tensor]:
    return torch.rand(1, 2, 6, 6), torch.rand(2, 2, 3, 3)


def _channels() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.rand(2, 3, 4), torch.zeros(3), torch.ones(3), torch.ones(3)


def _write_row(y: Tensor) -> Tensor:
    y[0] = 1.0
    return y


def _write_slice(y: Tensor, value: Tensor) -> Tensor:
    y[1:3] = value[1:3]
    return y


def _embed(index: Tensor, weight: Tensor) -> Tensor:
    return F.embedding(index, weight)


def _normalise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, (4,), weight, bias)


OPS_WITHOUT_GRADIENT = frozenset({"detach", "argmax"})
OP_GROUPS: dict[str, dict[str, OpCase]] = {
    "pointwise": {
        "add": (_vectors, torch.add),
        "add, fresh": (_vector, lambda x: x + x + x + x),
        "mul": (_vectors, torch.mul),
        "exp": (_vector, torch.exp),
        "relu": (_vector, torch.relu),
        "gelu": (_vector, F.gelu),
        "where": (_vectors, lambda x, y: torch.where(x > y, x, y)),
        "masked_fill": (_vectors, lambda x, y: x.masked_fill(y > 0.5, 0.0)),
    },
    "in place": {
        "add_, long-lived": (_vector, lambda x: x.add_(0.0)),
        "add_, fresh": (_vector, lambda x: (x + x).add_(1.0).add_(1.0).add_(1.0)),
        "relu_, fresh": (_vector, lambda x: (x + x).relu_()),
        "copy_, long-lived": (_vectors, lambda x, y: x.copy_(y)),
        "copy_, fresh": (_vectors, lambda x, y: (x + x).copy_(y)),
        "zero_, long-lived": (lambda: (torch.zeros(8),), lambda x: x.zero_()),
    },
    "views": {
        "view": (_vector, lambda x: x.view(2, 4)),
        "view, fresh": (_vector, lambda x: (x + x).view(2, 4).view(4, 2).view(8)),
        "transpose": (_matrix, lambda x: x.transpose(0, 1)),
        "transpose, fresh": (_matrix, lambda x: (x + x).transpose(0, 1)),
        "unsqueeze and expand, fresh": (_vector, lambda x: (x + x).unsqueeze(0).expand(3, 8)),
        "chunk": (_vector, lambda x: x.chunk(2)),
        "split, fresh": (_vector, lambda x: (x + x).split(4)),
        "detach": (_vector, lambda x: x.detach()),
    },
    "slicing": {
        "slice": (_vector, lambda x: x[1:5]),
        "slice, fresh": (_vector, lambda x: (x + x)[1:5]),
        "select": (_matrix, lambda x: x[0]),
        "row write, long-lived": (lambda: (torch.ones(4, 4),), _write_row),
        "row write, fresh": (_matrix, lambda x: _write_row(x + x)),
        "slice write, long-lived": (lambda: (torch.ones(8), torch.ones(8)), _write_slice),
        "slice write, fresh": (_vectors, lambda x, y: _write_slice(x + x, y)),
    },
    "factories": {
        "empty": (tuple, lambda: torch.empty(8).shape),
        "zeros": (tuple, lambda: torch.zeros(8)),
        "arange": (tuple, lambda: torch.arange(8)),
        "full_like": (_vector, lambda x: torch.full_like(x, 1.0)),
    },
    "reductions": {
        "sum": (_vector, torch.sum),
        "mean over a dimension": (_matrix, lambda x: x.mean(-1)),
        "max": (_vector, torch.max),
        "argmax": (_matrix, lambda x: x.argmax(-1)),
    },
    "products": {
        "mm": (_matrices, torch.mm),
        "matmul": (_batches, torch.matmul),
        "bmm": (_batches, torch.bmm),
        "linear": (_affine, F.linear),
        "scaled_dot_product_attention": (_heads, F.scaled_dot_product_attention),
        "conv2d": (_image, F.conv2d),
    },
    "of a layer": {
        "embedding": (_table, _embed),
        "layer_norm": (lambda: (torch.rand(4, 4), torch.ones(4), torch.zeros(4)), _normalise),
        "batch_norm": (_channels, lambda x, mean, var, weight: F.batch_norm(x, mean, var, weight)),
        "softmax": (_matrix, lambda x: x.softmax(-1)),
    },
    "joining and moving": {
        "cat": (_vectors, lambda x, y: torch.cat((x, y))),
        "stack": (_vectors, lambda x, y: torch.stack((x, y))),
        "clone": (_vector, torch.clone),
        "to another dtype": (_vector, lambda x: x.to(torch.float64)),
        "index_select": (lambda: (torch.rand(8), torch.arange(4)), lambda x, i: x.index_select(0, i)),
        "gather": (lambda: (torch.rand(4, 4), torch.zeros(4, 1, dtype=torch.int64)), lambda x, i: x.gather(1, i)),
    },
}
