"""Pickled calls: whether a call can be measured in another process, and the file that takes it there."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradprobe.comparison.state.reachable import ReachableState
from gradprobe.comparison.workloads.sources import WorkloadSource

MAX_PICKLED_BYTES = 1 << 30


def pickle_call(
    path: Path, fn: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[WorkloadSource | None, str]:
    """Write a call to a file for other processes. Return its source and an empty text, or None and the reason."""
    reason = _find_loss(list(ReachableState(partial(fn, *args, **kwargs)).tensors.values()))
    if reason:
        return None, reason
    try:
        data = pickle.dumps((fn, args, dict(kwargs)))
    except Exception:
        return None, "it cannot be pickled: it is a lambda or a nested function, or its arguments do not pickle"
    if len(data) > MAX_PICKLED_BYTES:
        return None, f"each process would need a copy of its {len(data) >> 20} MiB"
    if b"__main__" in data:
        return None, "it is defined in __main__; move it to a module to measure it in several processes"
    path.write_bytes(data)
    return WorkloadSource("pickle", str(path)), ""


def _find_loss(tensors: Sequence[Tensor]) -> str:
    """Return why copies of these tensors in another process would differ from them; an empty text if they would not."""
    if any(tensor.is_inference() for tensor in tensors):
        return "its inference tensors would become normal tensors in another process"
    if any(tensor.is_leaf and tensor.grad is not None for tensor in tensors):
        return "gradients are not pickled; clear them to measure it in several processes"
    addresses = [
        t.untyped_storage().data_ptr() for t in tensors if t.layout is torch.strided and not t.is_meta and t.numel()
    ]
    if len(set(addresses)) < len(addresses):
        return "its tensors share memory, which copies in another process would not"
    return ""
