"""Whether a call returns the same in two modes."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gradprobe.comparison.state.tensor_state import is_bitwise_equal

ROUNDING_TOLERANCE = 1e-5
"""Relative to the largest value: what another order of the same additions makes of float32."""
_DEPTH = 3


@dataclass(frozen=True)
class OutputDifference:
    """``text`` is empty for the same bits. ``matters`` where it is more than rounding."""

    text: str = ""
    matters: bool = False


def copy_outputs(result: object) -> list[Any]:
    """What is compared of a result: copies of its tensors and arrays, its other values, and the keys that lead to them."""
    return [
        leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in map(_tensor_of_array, _leaves(result))
    ]


def _leaves(value: object, depth: int = _DEPTH) -> Iterator[object]:
    """Of what is no container that torch knows, the attributes: a dataclass returns tensors as well as a tuple does."""
    for path, leaf in pytree.tree_flatten_with_path(value)[0]:
        if path:
            yield pytree.keystr(path)
        if leaf is None or isinstance(leaf, Tensor | int | float | complex | bool | str | bytes) or _is_array(leaf):
            yield leaf
        elif isinstance(leaf, set | frozenset):
            yield from sorted(map(repr, leaf))
        elif depth and not isinstance(leaf, type | torch.nn.Module) and not callable(leaf):
            yield from _leaves(_attributes(leaf), depth - 1)


def _attributes(value: object) -> dict[str, object]:
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    return dict(getattr(value, "__dict__", {}))


def _is_array(value: object) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _tensor_of_array(leaf: Any) -> Any:
    if not _is_array(leaf):
        return leaf
    try:
        return torch.tensor(leaf)
    except TypeError:  # of objects, or of text
        return repr(leaf.tolist())


def compare_outputs(one: list[Any], other: list[Any]) -> OutputDifference:
    """How two results differ."""
    if len(one) != len(other):
        return OutputDifference(f"{len(other)} values instead of {len(one)}", matters=True)
    largest = 0.0
    for left, right in zip(one, other, strict=True):
        if not isinstance(left, Tensor) or not isinstance(right, Tensor):
            if type(left) is not type(right) or (left != right and not (left != left and right != right)):
                return OutputDifference(f"{_named(right)} instead of {_named(left)}", matters=True)
        elif _form(left) != _form(right):
            return OutputDifference(f"{_form(right)} instead of {_form(left)}", matters=True)
        else:
            largest = max(largest, *map(_apart, _parts(left), _parts(right)))
    if largest == 0.0:
        return OutputDifference()
    return OutputDifference(f"values differ by {largest:.1g} of the largest", matters=not largest <= ROUNDING_TOLERANCE)


def _parts(tensor: Tensor) -> list[Tensor]:
    """Dense tensors that hold all of its values; those of a tensor without data are none."""
    if tensor.is_meta:
        return [torch.empty(0)]
    if tensor.is_nested:
        return list(tensor.unbind())
    with torch.inference_mode():  # where compressed ones made there can be read as well as others
        return [tensor if tensor.layout is torch.strided else tensor.to_dense()]


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference beside the largest value; infinite where what is not finite differs."""
    if one.shape != other.shape:
        return float("inf")
    if is_bitwise_equal(one, other):
        return 0.0
    with torch.no_grad():
        left, right = (t.dequantize() if t.is_quantized else t for t in (one, other))
        left, right = left.detach().to(torch.complex128), right.detach().to(torch.complex128)
        finite = left.isfinite() & right.isfinite()
        if not is_bitwise_equal(left[~finite], right[~finite]):
            return float("inf")
        left, right = left[finite], right[finite]
        return float((left - right).abs().max()) / (float(left.abs().max()) or 1.0) if len(left) else 0.0


def _named(value: object) -> str:
    return _form(value) if isinstance(value, Tensor) else f"{value!r:.40}"


def _form(tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_nested:
        return f"nested {kind} of {tensor.size(0)} tensors"
    layout = "" if tensor.layout is torch.strided else f"{str(tensor.layout).removeprefix('torch.')} "
    return f"{layout}{kind} of shape {tuple(tensor.shape)}"
