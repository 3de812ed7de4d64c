"""Comparison of the outputs of a call in two modes."""

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
"""Difference relative to the largest value that another order of the same float32 additions may cause."""
_MAX_ATTRIBUTE_DEPTH = 3


@dataclass(frozen=True)
class OutputDifference:
    """Difference between two outputs."""

    text: str = ""
    """Description; empty for the same values."""
    matters: bool = False
    """True if it is more than rounding."""


def copy_outputs(result: object) -> list[Any]:
    """Return copies of the tensors and arrays of a result, its other values, and the keys that lead to them."""
    return [
        leaf.detach().clone() if isinstance(leaf, Tensor) else leaf
        for leaf in map(_convert_array, _iterate_leaves(result))
    ]


def _iterate_leaves(value: object, depth: int = _MAX_ATTRIBUTE_DEPTH) -> Iterator[object]:
    """Yield the leaves of a pytree. Other objects are replaced by their attributes: a dataclass may return tensors too."""
    for path, leaf in pytree.tree_flatten_with_path(value)[0]:
        if path:
            yield pytree.keystr(path)
        if leaf is None or isinstance(leaf, Tensor | int | float | complex | bool | str | bytes) or _is_array(leaf):
            yield leaf
        elif isinstance(leaf, set | frozenset):
            yield from sorted(map(repr, leaf))
        elif depth and not isinstance(leaf, type | torch.nn.Module) and not callable(leaf):
            yield from _iterate_leaves(_read_attributes(leaf), depth - 1)


def _read_attributes(value: object) -> dict[str, object]:
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    return dict(getattr(value, "__dict__", {}))


def _is_array(value: object) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _convert_array(leaf: Any) -> Any:
    if not _is_array(leaf):
        return leaf
    try:
        return torch.tensor(leaf)
    except TypeError:  # an array of objects or of text
        return repr(leaf.tolist())


def compare_outputs(one: list[Any], other: list[Any]) -> OutputDifference:
    """Return the difference between two results of ``copy_outputs``."""
    if len(one) != len(other):
        return OutputDifference(f"{len(other)} values instead of {len(one)}", matters=True)
    largest = 0.0
    for left, right in zip(one, other, strict=True):
        if not isinstance(left, Tensor) or not isinstance(right, Tensor):
            if type(left) is not type(right) or (left != right and not (left != left and right != right)):
                return OutputDifference(f"{_describe_value(right)} instead of {_describe_value(left)}", matters=True)
        elif _describe_tensor(left) != _describe_tensor(right):
            return OutputDifference(f"{_describe_tensor(right)} instead of {_describe_tensor(left)}", matters=True)
        else:
            largest = max(largest, *map(_measure_difference, _split_dense(left), _split_dense(right)))
    if largest == 0.0:
        return OutputDifference()
    return OutputDifference(f"values differ by {largest:.1g} of the largest", matters=not largest <= ROUNDING_TOLERANCE)


def _split_dense(tensor: Tensor) -> list[Tensor]:
    """Return dense tensors with all values of a tensor; an empty one for a tensor without data."""
    if tensor.is_meta:
        return [torch.empty(0)]
    if tensor.is_nested:
        return list(tensor.unbind())
    with torch.inference_mode():  # the mode in which all compressed tensors can be read
        return [tensor if tensor.layout is torch.strided else tensor.to_dense()]


def _measure_difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference relative to the largest value; infinity if values that are not finite differ."""
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


def _describe_value(value: object) -> str:
    return _describe_tensor(value) if isinstance(value, Tensor) else f"{value!r:.40}"


def _describe_tensor(tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_nested:
        return f"nested {kind} of {tensor.size(0)} tensors"
    layout = "" if tensor.layout is torch.strided else f"{str(tensor.layout).removeprefix('torch.')} "
    return f"{layout}{kind} of shape {tuple(tensor.shape)}"
