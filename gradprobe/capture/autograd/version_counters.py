"""Version counters where no operator tells of them: reads that fail, and counters put up by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from gradprobe.capture.patching.compile_skip import skip_when_compiling
from gradprobe.capture.patching.patches import Patch

_descriptor: Any = vars(torch._C.TensorBase)["_version"]
read_version: Callable[[torch.Tensor], int] = _descriptor.__get__
"""Raises ``RuntimeError`` where there is no counter. Not the attribute: a read of that counts as the program's."""


def version_of(tensor: torch.Tensor) -> int | None:
    """The value of a tensor's version counter; None where it has none."""
    try:
        return read_version(tensor)
    except RuntimeError:
        return None


def version_patches(
    read_failed: Callable[[torch.Tensor], None], puts_up: Callable[[], None], put_up: Callable[[Any], None]
) -> list[Patch]:
    """Calls ``read_failed`` when the program reads the version of a tensor that has no counter, which raises, ``puts_up``
    before and ``put_up`` after it puts counters up itself, as custom operators do, with their tensors."""

    def read(self: torch.Tensor) -> Any:
        try:
            return read_version(self)
        except RuntimeError:
            read_failed(self)
            raise

    skip_when_compiling(read)
    patches = [Patch(torch.Tensor, "_version", _Read(read))]
    bindings: Any = torch._C
    original = getattr(bindings, "_increment_version", None)
    if original is not None:

        @functools.wraps(original)
        def increment(tensors: Any) -> None:
            if isinstance(tensors, Iterator):
                tensors = list(tensors)  # it is read once only
            puts_up()
            original(tensors)
            put_up(tensors)

        skip_when_compiling(increment)
        patches.append(Patch(bindings, "_increment_version", increment))
    return patches


class _Read:
    """``Tensor._version`` with another way to read it. Of the class it gives PyTorch's own descriptor, by which function
    modes and subclasses of the program know what was asked."""

    def __init__(self, read: Callable[[torch.Tensor], Any]) -> None:
        self._read = read

    def __get__(self, tensor: torch.Tensor | None, kind: type | None = None) -> Any:
        return _descriptor if tensor is None else self._read(tensor)

    def __set__(self, tensor: torch.Tensor, value: object) -> None:
        _descriptor.__set__(tensor, value)
