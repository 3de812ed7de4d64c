"""Where a tensor was made, if a recorder saw it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Birth:
    """The operator that made a tensor, the user's line and function that called it, and the module it ran in."""

    op: str
    file: str
    line: int
    function: str
    module: str | None


def birth_of(tensor: torch.Tensor) -> Birth | None:
    """Where ``tensor`` was made; None, since nothing keeps births yet."""
    return None
