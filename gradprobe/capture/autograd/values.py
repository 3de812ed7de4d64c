"""The tensors among the arguments and results of operators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


def iter_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in an operator's argument or result, those in a list or tuple included."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            if isinstance(item, torch.Tensor):
                yield item
