"""Version counters beyond operators: failed reads, and increments by custom code."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from gradprobe.capture.patching.compile_skip import skip_when_compiling
from gradprobe.capture.patching.patches import Patch

_descriptor: Any = vars(torch._C.TensorBase)["_version"]
read_version: Callable[[torch.Tensor], int] = _descriptor.__get__
"""Return a tensor's version; raise ``RuntimeError`` if it has no counter.

Not the attribute itself: a read of that counts as the program's.
"""


def version_of(tensor: torch.Tensor) -> int | None:
    """Return the value of a tensor's version counter, None if it has no counter."""
    try:
        return read_version(tensor)
    except RuntimeError:
        return None


def version_patches(
    on_failed_read: Callable[[torch.Tensor], None], after_increment: Callable[[Any], None]
) -> list[Patch]:
    """Return the patches that observe the program's own use of version counters.

    Args:
        on_failed_read: Called with a tensor without a counter when reading its version raises.
        after_increment: Called with the tensors after the program incremented counters itself, as custom operators do.
    """

    def read(self: torch.Tensor) -> Any:
        try:
            return read_version(self)
        except RuntimeError:
            on_failed_read(self)
            raise

    skip_when_compiling(read)
    patches = [Patch(torch.Tensor, "_version", _VersionAttribute(read))]
    bindings: Any = torch._C
    original = getattr(bindings, "_increment_version", None)
    if original is not None:

        @functools.wraps(original)
        def increment(tensors: Any) -> None:
            if isinstance(tensors, Iterator):
                tensors = list(tensors)  # an iterator can be read only once
            original(tensors)
            after_increment(tensors)

        skip_when_compiling(increment)
        patches.append(Patch(bindings, "_increment_version", increment))
    return patches


class _VersionAttribute:
    """The attribute ``Tensor._version`` with another way to read it.

    Read on the class, it returns PyTorch's own descriptor, by which function modes and subclasses of the program recognise
    the attribute.
    """

    def __init__(self, read: Callable[[torch.Tensor], Any]) -> None:
        self._read = read

    def __get__(self, tensor: torch.Tensor | None, kind: type | None = None) -> Any:
        return _descriptor if tensor is None else self._read(tensor)

    def __set__(self, tensor: torch.Tensor, value: object) -> None:
        _descriptor.__set__(tensor, value)
