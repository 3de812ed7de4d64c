"""Version counters where no operator tells of them: reads that fail, and counters put up by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from gradprobe.capture.patches import Patch

_descriptor: Any = vars(torch._C.TensorBase)["_version"]
read_version: Callable[[torch.Tensor], int] = _descriptor.__get__
"""Raises ``RuntimeError`` where there is no counter. Not the attribute: a read of that counts as the program's."""


def version_of(tensor: torch.Tensor) -> int | None:
    """The value of a tensor's version counter; None where it has none."""
    try:
        return read_version(tensor)
    except RuntimeError:
        return None


def version_patches(read_failed: Callable[[], None], put_up: Callable[[Any], None]) -> list[Patch]:
    """Calls ``read_failed`` when the program reads the version of a tensor that has no counter, which raises, and
    ``put_up`` with the tensors whose counters it puts up itself, as custom operators do."""

    def read(self: torch.Tensor) -> Any:
        try:
            return read_version(self)
        except RuntimeError:
            read_failed()
            raise

    patches = [Patch(torch.Tensor, "_version", property(read, doc=_descriptor.__doc__))]
    bindings: Any = torch._C
    original = getattr(bindings, "_increment_version", None)
    if original is not None:

        @functools.wraps(original)
        def increment(tensors: Any) -> None:
            original(tensors)
            put_up(tensors)

        patches.append(Patch(bindings, "_increment_version", increment))
    return patches
