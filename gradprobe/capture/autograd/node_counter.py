"""PyTorch's counter of autograd nodes."""

from __future__ import annotations

from collections.abc import Callable

import torch


def find_node_counter() -> Callable[[], int] | None:
    """Return PyTorch's count of the autograd nodes created by the calling thread, if it has one."""
    return getattr(torch.autograd, "_get_sequence_nr", None)
