"""State of a tensor before a call, and how to restore it."""

from __future__ import annotations

import torch
from torch import Tensor


class TensorState:
    """State of ``tensor`` when this object was made. Without ``copies`` only its version counter shows a change."""

    def __init__(self, tensor: Tensor, *, copies: bool) -> None:
        self.tensor = tensor
        self.changed = False
        self._version = _version(tensor)
        self._shape = tensor.shape
        self._requires_grad = tensor.requires_grad
        self._grad = tensor.grad if _may_have_grad(tensor) else None
        self._grad_state = None if self._grad is None else TensorState(self._grad, copies=copies)
        with torch.no_grad():
            self._data = _memory(tensor).clone() if copies and _is_plain(tensor) else None

    @property
    def has_copy(self) -> bool:
        """True if the values were copied, so that they can be restored."""
        return self._data is not None

    def detect_change(self) -> None:
        """Record whether the tensor has changed."""
        self.changed = self.changed or self.differs()

    def differs(self) -> bool:
        """Return whether the tensor's values, shape, gradient or ``requires_grad`` differ now."""
        tensor = self.tensor
        if tensor.shape != self._shape or tensor.requires_grad != self._requires_grad:
            return True
        if _may_have_grad(tensor) and tensor.grad is not self._grad:
            return True
        if self._grad_state is not None and self._grad_state.differs():
            return True
        if self._data is None:
            return _version(tensor) != self._version
        return not is_bitwise_equal(self._data, _memory(tensor))

    def restore_values(self) -> None:
        """Restore the tensor's shape, values, gradient and ``requires_grad``."""
        tensor = self.tensor
        if tensor.requires_grad != self._requires_grad and not tensor.is_inference():
            self._forget_history()
        if _may_have_grad(tensor):
            tensor.grad = self._grad
        if self._grad_state is not None:
            self._grad_state.restore_values()
        if self._data is not None:
            with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                if tensor.shape != self._shape:
                    tensor.resize_(self._shape)
                _memory(tensor).copy_(self._data)

    def _forget_history(self) -> None:
        """Detach a former leaf into which a call wrote results of a graph while grad mode was enabled."""
        if self.tensor.grad_fn is not None and not self.tensor._is_view():
            self.tensor.detach_()
        if self.tensor.is_leaf:
            self.tensor.requires_grad_(self._requires_grad)


def compute_copy_bytes(tensor: Tensor) -> int:
    """Return the number of bytes of a copy; 0 if the tensor would not be copied."""
    return tensor.numel() * tensor.element_size() if _is_plain(tensor) else 0


def is_bitwise_equal(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same values; NaN equals NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.layout is not torch.strided or one.is_quantized:
        return bool(torch.equal(one.detach(), other.detach())) if one.layout is not torch.jagged else False
    with torch.no_grad():
        one, other = one.detach(), other.detach()
        if one.dtype.is_floating_point or one.dtype.is_complex:
            return bool(torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True))
        return bool(torch.equal(one, other))


def _memory(tensor: Tensor) -> Tensor:
    """Return the tensor, or a flat view of all its memory if its elements share memory, as those of an expanded one do."""
    tensor = tensor.detach()
    if torch._debug_has_internal_overlap(tensor) == 0:
        return tensor
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((extent if tensor.numel() else 0,), (1,))


def _may_have_grad(tensor: Tensor) -> bool:
    return tensor.is_leaf and not tensor.is_inference()


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_nested


def _version(tensor: Tensor) -> int | None:
    try:
        return tensor._version
    except (RuntimeError, AttributeError):
        return None
