"""Storages of tensors, by their address."""

from __future__ import annotations

from typing import Any


def storage_of(tensor: Any) -> int:
    """Return the address of a tensor's storage, 0 if it has none."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        return 0
