"""Version counters beyond operators: failed reads, and increments by custom code."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import TracebackType
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
    library: Any,
    on_failed_read: Callable[[Exception, TracebackType | None, torch.Tensor], None],
    after_increment: Callable[[Any], None],
) -> list[Patch]:
    """Return the patches that observe the program's own use of version counters.

    Args:
        library: The observer's library.
        on_failed_read: Called with the exception, its traceback and the tensor when a read raises, as it has no counter.
        after_increment: Called with the tensors after the program incremented counters itself, as custom operators do.
    """

    def show(error: Exception, trace: TracebackType | None, arguments: tuple[Any, ...]) -> None:
        on_failed_read(error, trace, arguments[0])

    patches = [Patch(torch.Tensor, "_version", library.show_errors_of_attribute(_descriptor, show))]
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
