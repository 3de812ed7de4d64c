"""Whether a call returns the same in two modes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gradprobe.comparison.inputs import same_bits

CLOSE = 1e-5
"""Relative to the largest value: what another order of the same additions makes of float32."""


@dataclass(frozen=True)
class Difference:
    """``text`` is empty for the same bits. ``matters`` where it is more than rounding."""

    text: str = ""
    matters: bool = False


def kept(result: object) -> list[Any]:
    """What is compared of a result: copies of its tensors, and its other leaves."""
    return [
        leaf.detach().clone() if isinstance(leaf, Tensor) else leaf
        for leaf in pytree.tree_leaves(result)
        if isinstance(leaf, Tensor | int | float | bool | str | type(None))
    ]


def difference(one: list[Any], other: list[Any]) -> Difference:
    """How two results differ."""
    if len(one) != len(other):
        return Difference(f"{len(other)} values instead of {len(one)}", matters=True)
    largest = 0.0
    for left, right in zip(one, other, strict=True):
        if not isinstance(left, Tensor) or not isinstance(right, Tensor):
            if left != right and not (left != left and right != right):
                return Difference(f"{right!r:.40} instead of {left!r:.40}", matters=True)
            continue
        if left.shape != right.shape or left.dtype != right.dtype:
            return Difference(f"{_form(right)} instead of {_form(left)}", matters=True)
        if not same_bits(left, right):
            largest = max(largest, _apart(left, right))
    if largest == 0.0:
        return Difference()
    return Difference(f"values differ by {largest:.1g} of the largest", matters=not largest <= CLOSE)


def _apart(one: Tensor, other: Tensor) -> float:
    with torch.no_grad():
        left, right = (t.to_dense() if t.layout is not torch.strided else t for t in (one, other))
        left, right = left.detach().to(torch.complex128), right.detach().to(torch.complex128)
        scale = float(left.abs().nan_to_num().max()) or 1.0
        apart = float((left - right).abs().max()) / scale
        return apart if apart == apart else float("inf")


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
