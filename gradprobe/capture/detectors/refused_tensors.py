"""The tensor that an exception is about: one of the operands, or one that the failed expressions name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, NamedTuple

import torch

from gradprobe.capture.autograd.version_counters import version_of
from gradprobe.capture.location.expressions import names_at
from gradprobe.capture.location.handlers import FrameAt
from gradprobe.capture.location.sites import TORCH_DIR

_MAX_ITEMS = 100
_NEAREST_FRAMES = 3


class NamedTensor(NamedTuple):
    """A tensor and the expression that names it, None if none is known."""

    tensor: Any
    name: str | None


def has_counter(tensor: Any) -> bool:
    """Return whether ``tensor`` has a version counter."""
    return version_of(tensor) is not None


def is_inference(tensor: Any) -> bool:
    """Return whether ``tensor`` is an inference tensor, or was one and is half converted."""
    return bool(tensor.is_inference()) or not has_counter(tensor)


def is_half_converted(tensor: Any) -> bool:
    """Return whether an inference tensor was given new data outside of the mode."""
    return not tensor.is_inference() and not has_counter(tensor)


def _is_wrapper(tensor: Any) -> bool:
    return type(tensor) not in (torch.Tensor, torch.nn.Parameter)


def _is_view(tensor: Any) -> bool:
    return bool(tensor._is_view())


def _requires_grad(tensor: Any) -> bool:
    return bool(tensor.requires_grad)


def _is_leaf_or_view_of_one(tensor: Any) -> bool:
    return bool(tensor.requires_grad) and (bool(tensor.is_leaf) or bool(tensor._is_view()))


def _is_result(tensor: Any) -> bool:
    return bool(tensor.requires_grad) and not tensor.is_leaf


def _is_without_history(tensor: Any) -> bool:
    return not tensor.requires_grad


def _is_of_integers(tensor: Any) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())


_KINDS: dict[str, Callable[[Any], bool]] = {
    "inference": is_inference,
    "wrapper": _is_wrapper,
    "view": _is_view,
    "grad": _requires_grad,
    "leaf": _is_leaf_or_view_of_one,
    "result": _is_result,
    "no-history": _is_without_history,
    "integers": _is_of_integers,
}
"""Predicates of tensors, by the names that the table of refusals uses."""


def find_tensor(kind: str, operands: Iterable[Any], frames: Sequence[FrameAt]) -> NamedTensor | None:
    """Return the tensor of a kind among the operands, or else among those that the failed expressions or frames name.

    Args:
        kind: Name of the predicate that the tensor meets, "" for any tensor.
        operands: The operands of what failed, as far as they are known.
        frames: The frames in which it failed, from the outside in.
    """
    matches = _KINDS.get(kind, lambda tensor: True)
    known = [tensor for operand in operands for tensor in tensors_in(operand)]
    for tensor in known:
        if _meets(matches, tensor):
            return NamedTensor(tensor, _name_of(tensor, frames))
    for frame, offset in reversed(frames):
        for _, value in names_at(frame, offset):
            for tensor in tensors_in(value):
                if _meets(matches, tensor):
                    return NamedTensor(tensor, _name_of(tensor, frames))
    for frame, _ in () if known or not kind else reversed(frames[-_NEAREST_FRAMES:]):
        for name, value in list(frame.f_locals.items()):
            for tensor in tensors_in(value):
                if _meets(matches, tensor):
                    is_named = value is tensor and not _is_of_torch(frame)
                    return NamedTensor(tensor, name if is_named else _name_of(tensor, frames))
    return None


def tensors_in(value: Any) -> Iterator[Any]:
    """Yield the tensors in a value: itself, the items of a list, the parameters and buffers of a module."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        yield from (item for item in value[:_MAX_ITEMS] if isinstance(item, torch.Tensor))
    elif isinstance(value, torch.nn.Module):
        for module in value.modules():
            yield from (t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None)


def _meets(matches: Callable[[Any], bool], tensor: Any) -> bool:
    try:
        return matches(tensor)
    except RuntimeError:  # a tensor that refuses the question
        return False


def _name_of(tensor: Any, frames: Sequence[FrameAt]) -> str | None:
    """Return the name of a tensor in the program; those that PyTorch's functions have for it say nothing there."""
    for frame, offset in reversed(frames):
        for name, value in () if _is_of_torch(frame) else names_at(frame, offset):
            if value is tensor:
                return name
    return None


def _is_of_torch(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(TORCH_DIR)
