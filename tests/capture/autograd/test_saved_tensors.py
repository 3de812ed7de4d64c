"""``gradprobe.inspect(t).saved_tensors``: what each node saved, without running a hook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gradprobe
from tests.capabilities import needs_saved

pytestmark = needs_saved


class Custom(torch.autograd.Function):
    """A function that saves tensors in every place there is."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, x * 2)
        ctx.extra, ctx.listed, ctx.named = torch.ones(5), [x, 3], {"mask": torch.ones(2, dtype=torch.bool)}
        return x + 1

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


def leaf(*shape: int) -> torch.Tensor:
    return torch.rand(shape, requires_grad=True)


def in_place_on_view() -> torch.Tensor:
    base = leaf(4).exp()
    base[:2].mul_(leaf(2))
    return base


def recurrent() -> torch.Tensor:
    weight, state = nn.Parameter(torch.rand(3, 3)), torch.rand(2, 3)
    for _ in range(4):
        state = (state @ weight).tanh()
    return torch.cat([state, state[:, :1]], 1).logsumexp(0)


GRAPHS: dict[str, Callable[[], torch.Tensor]] = {
    "custom": lambda: Custom.apply(leaf(3).sin()).cos(),
    "recurrent": recurrent,
    "layers": lambda: nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.ReLU(inplace=True))(torch.rand(2, 1, 9)),
    "complex": lambda: torch.view_as_real(leaf(4).to(torch.complex64) ** 2),
    "scalar": lambda: leaf() * 3,
    "in place": in_place_on_view,
    "none": lambda: torch.ones(2),
    "attention": lambda: nn.functional.scaled_dot_product_attention(*[leaf(1, 2, 4, 8)] * 3),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_the_unique_storages_add_up_to_the_saved_bytes(name: str) -> None:
    seen = gradprobe.inspect(GRAPHS[name]())
    saved = seen.saved_tensors
    assert saved.drop_duplicates("storage")["bytes"].sum() == seen.saved_bytes
    assert (saved["state"] == "unreadable").sum() == seen.unread
    for _, names in saved.groupby("storage")["shared_with"]:
        assert len(names) == 1 or all(names)


def test_each_place_of_a_custom_function_has_a_row() -> None:
    source = leaf(3)
    saved = gradprobe.inspect(Custom.apply(source)).saved_tensors.set_index("name")
    assert set(saved.index) == {"tensors[0]", "tensors[1]", "ctx.extra", "ctx.listed[0]", "ctx.named['mask']"}
    assert saved.loc["tensors[0]", "shared_with"] == "a leaf, CustomBackward.ctx.listed[0]"
    assert saved.loc["ctx.named['mask']", ["shape", "dtype", "bytes", "shared_with"]].tolist() == ["2", "bool", 2, ""]


def test_no_hook_unpacks_and_freed_tensors_are_said_to_be() -> None:
    def unpack(packed: Any) -> Any:
        raise AssertionError("a hook ran")

    inner = leaf(3).exp()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: ("packed", tensor.shape), unpack):
        out = inner.sin()
    states = gradprobe.inspect(out).saved_tensors.set_index("node")["state"].to_dict()
    assert states == {"SinBackward0": "hooked", "ExpBackward0": "saved"}
    inner.sum().backward()
    saved = gradprobe.inspect(inner).saved_tensors
    assert saved["state"].tolist() == ["freed"]
    assert saved[["shape", "bytes", "file"]].isna().all(axis=None)


def test_creation_lines_are_those_of_the_operators() -> None:
    code = "x = torch.ones(2, 3)\ny = x * w\nz = y.exp()\nout = z.sum(0).sin()\ndel y, z\n"
    names: dict[str, Any] = {"torch": torch, "w": nn.Parameter(torch.ones(3))}
    with gradprobe.record(level="ops"):
        exec(compile(code, "lines.py", "exec"), names)
        saved = gradprobe.inspect(names["out"]).saved_tensors.set_index(["node", "name"])
    assert saved.loc[("MulBackward0", "self"), ["file", "line", "op"]].tolist() == ["lines.py", 1, "aten.ones"]
    assert saved.loc[("SinBackward0", "self"), "line"] == 4
    assert saved.loc[("MulBackward0", "self"), "shape"] == "2x3"


def test_the_line_of_a_saved_result_is_known_while_a_tensor_of_the_program_has_its_storage() -> None:
    with gradprobe.record(level="ops"):
        kept = leaf(3).exp()
        number = gradprobe.inspect(kept).born
        saved = gradprobe.inspect(kept * 1.0).saved_tensors.set_index("node")
    assert number is not None
    assert saved.loc["ExpBackward0", ["name", "line"]].tolist() == ["result", number.line]
