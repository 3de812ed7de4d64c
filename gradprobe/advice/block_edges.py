"""Hashes of what functions return, read from the tensors' memory so that no operator runs for it."""

from __future__ import annotations

import ctypes
import hashlib
import sys
from collections.abc import Iterable
from typing import Any

_MAX_CALLS = 200
_MAX_BYTES = 1 << 22
_MAX_DEPTH = 3
_MAX_ITEMS = 1_000
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


class BlockEdges:
    """Running hashes of the results of functions that have sites.

    Args:
        functions: File and first line of each function.
    """

    def __init__(self, functions: Iterable[tuple[str, int]]) -> None:
        self._hashes = {each: hashlib.sha256() for each in functions}
        self._calls = dict.fromkeys(self._hashes, 0)

    def add(self, function: tuple[str, int], result: Any) -> None:
        """Add what a function returned or yielded, if it is one of those."""
        into = self._hashes.get(function)
        if into is None:
            return
        self._calls[function] += 1
        if self._calls[function] <= _MAX_CALLS:
            self._add_value(into, result, 0)

    def list_rows(self) -> list[dict[str, Any]]:
        """Return a row for each function that was called."""
        return [
            {"edge": [file, line], "calls": calls, "hash": self._hashes[file, line].hexdigest()[:16]}
            for (file, line), calls in self._calls.items()
            if calls
        ]

    def _add_value(self, into: Any, value: Any, depth: int) -> None:
        torch = sys.modules.get("torch")
        if isinstance(value, bool | int | float | str | type(None)):
            into.update(repr(value).encode())
        elif torch is not None and type(value) in (torch.Tensor, torch.nn.Parameter):
            self._add_tensor(into, value)
        elif isinstance(value, list | tuple) and depth < _MAX_DEPTH:
            for part in value:
                self._add_value(into, part, depth + 1)
        elif isinstance(value, dict) and depth < _MAX_DEPTH:
            for part in value.values():
                self._add_value(into, part, depth + 1)

    def _add_tensor(self, into: Any, tensor: Any) -> None:
        into.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        is_readable = tensor.device.type == "cpu" and tensor.layout is sys.modules["torch"].strided
        if is_readable and not tensor.is_quantized and tensor.is_contiguous() and tensor.nbytes <= _MAX_BYTES:
            into.update(ctypes.string_at(tensor.data_ptr(), tensor.nbytes))


def may_hold_tensor(value: Any, depth: int = 0) -> bool:
    """Return whether a value is a tensor or could have one in it; numbers, text and containers of these cannot."""
    if isinstance(value, _PLAIN) or type(value).__module__ == "numpy":
        return False
    if isinstance(value, list | tuple | set | frozenset | dict) and len(value) > _MAX_ITEMS:
        return True  # too long to look at after every call
    if isinstance(value, list | tuple | set | frozenset) and depth < _MAX_DEPTH:
        return any(may_hold_tensor(part, depth + 1) for part in value)
    if isinstance(value, dict) and depth < _MAX_DEPTH:
        return any(may_hold_tensor(part, depth + 1) for part in value.values())
    return True
