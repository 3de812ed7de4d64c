"""Storages saved for backward: each has a number for as long as it exists, and its size in bytes."""

from __future__ import annotations

from typing import Any

import torch

from gradprobe.capture.autograd.creation import REGISTRY, next_sweep_size
from gradprobe.capture.autograd.graph import find_saved_tensors

SavedStorage = tuple[int, int, int, bool]
"""A saved storage; a plain tuple, as one is looked up for each saved tensor.

[0] its number, [1] size in bytes, [2] time of its creation or -1 if unknown, [3] whether it belonged to an input.
"""
_SPARE = 1_024
_STORAGE: Any = torch.UntypedStorage


def storage_of(tensor: Any) -> int:
    """Return the address of a tensor's storage, 0 if it has none."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        return 0


class SavedStorages:
    """Numbers of storages. A weak reference to each keeps its address from being reused."""

    def __init__(self) -> None:
        self._entries: dict[int, SavedStorage] = {}
        self._next = 1
        self._sweep_at = _SPARE
        self.since_backward: set[int] = set()
        """The addresses of storages saved since the last backward began."""

    def saved_by(self, node: Any, outputs: list[Any]) -> tuple[tuple[SavedStorage, ...], int]:
        """Return the storages that ``node`` saved, and the number of its tensors passed to hooks instead."""
        kept, hooked = find_saved_tensors(node)
        if not kept:
            return (), hooked
        found = (self._entry(tensor, outputs) for tensor in kept)
        return tuple({entry[0]: entry for entry in found if entry is not None}.values()), hooked

    def clear(self) -> None:
        """Release all addresses."""
        for address in self._entries:
            _STORAGE._free_weak_ref(address)
        self._entries.clear()
        self.since_backward.clear()

    def _entry(self, tensor: Any, outputs: list[Any]) -> SavedStorage | None:
        try:
            storage = tensor.untyped_storage()
        except (RuntimeError, NotImplementedError, AttributeError):  # sparse and similar tensors; not a tensor
            return None
        address, size = storage._cdata, storage.nbytes()
        self.since_backward.add(address)
        known = self._entries.get(address)
        # An input of unknown age stays one, as parameters do.
        if known is not None and known[1] == size and (known[2] >= 0 or known[3]):
            return known
        made = REGISTRY.made_at(tensor)
        # A saved output is another tensor object over the output's storage.
        of_outputs = [o for o in outputs if storage_of(o) == address]
        if made < 0:
            made = max(map(REGISTRY.made_at, of_outputs), default=-1)
        if known is None:
            number, address, is_input = self._next, storage._weak_ref(), not of_outputs and tensor.is_leaf
            self._next += 1
        elif known[1] == size and known[2] == made:
            return known  # the same object: dict look-ups of equal keys then need no comparison
        else:
            number, is_input = known[0], known[3]
        entry = self._entries[address] = number, size, made, is_input
        if len(self._entries) > self._sweep_at:
            self._sweep()
        return entry

    def _sweep(self) -> None:
        self.since_backward.intersection_update(self._entries)
        for address in [a for a in self._entries if _STORAGE._expired(a)]:
            del self._entries[address]
            _STORAGE._free_weak_ref(address)
        self._sweep_at = next_sweep_size(len(self._entries), _SPARE)


SAVED_STORAGES = SavedStorages()
