"""A tensor as PyTorch has it, whatever its class makes of the same names."""

from __future__ import annotations

from typing import Any

import torch


class BaseTensor:
    """Attributes and methods of ``torch.Tensor`` itself on a tensor: a subclass may answer otherwise, or raise."""

    __slots__ = ("_tensor",)

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.Tensor, name).__get__(self._tensor, torch.Tensor)
