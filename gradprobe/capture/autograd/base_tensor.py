"""The base-class view of a tensor, for tensors of any subclass."""

from __future__ import annotations

from typing import Any

import torch


class BaseTensor:
    """The attributes and methods of ``torch.Tensor`` on a tensor. A subclass may override them, or raise."""

    __slots__ = ("_tensor",)

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.Tensor, name).__get__(self._tensor, torch.Tensor)
