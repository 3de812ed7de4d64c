"""What PyTorch has switched off by the time it calls a dispatch mode, switched on again where a kernel needs it.

By then the dispatcher has passed autocasting, autograd, the counting of versions and the handling of lazy conjugates, and
leaves them out of all that the mode calls. For the kernel of a single operator that is right. An operator that consists of
others comes to a mode whole under inference mode, and its parts never passed any of them: left out, an ``einsum`` would
not be autocast, and a product would take another way to another rounding. A kernel that conjugates lazily in between, as
that of the pseudo-inverse does, would compute nonsense.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from sys import _getframe
from types import FrameType
from typing import Any

import torch

_C: Any = torch._C
_KEYS: Any = _C.DispatchKey
_LAZY = ["ZeroTensor", "Negative", "Conjugate"]
_ABOVE = ["ADInplaceOrView", *_LAZY]
_ABOVE += [name for name in dir(_KEYS) if name.startswith("Autocast") and "Functionality" not in name]


def _set_of(names: list[str]) -> Any:
    keys = [getattr(_KEYS, name) for name in names if hasattr(_KEYS, name)]
    found = _C.DispatchKeySet(keys[0])
    for key in keys[1:]:
        found = found.add(key)
    return found


_ALL: Any = _set_of(_ABOVE)
_OF_COMPLEX: Any = _set_of(_LAZY)


def counting_versions(_: Any) -> AbstractContextManager[Any]:
    """A block in which the parts of an operator count versions and track views, as they would unwatched."""
    return nullcontext() if _is_called_by_another() else _counting_versions()


def as_unwatched(_: Any) -> AbstractContextManager[Any]:
    """A block in which the parts of an operator pass all that they would if no mode had been called with the whole."""
    return nullcontext() if _is_called_by_another() else _reopening(_ALL) or _counting_versions()


def conjugating(args: Any) -> AbstractContextManager[Any]:
    """A block in which an operator on a complex tensor may conjugate and negate lazily."""
    with _C.DisableTorchFunction():  # modes and tensors of the program hear of no question of ours
        is_complex = bool(args) and isinstance(args[0], torch.Tensor) and args[0].is_complex()
    if not is_complex or _is_called_by_another():
        return nullcontext()
    return _reopening(_OF_COMPLEX) or nullcontext()


def _reopening(keys: Any) -> AbstractContextManager[Any] | None:
    """A block in which those of ``keys`` are on that were on when the program called PyTorch."""
    try:
        off = _C._dispatch_tls_local_exclude_set()
        with _C._RestorePythonTLSSnapshot():
            off_at_entry = _C._dispatch_tls_local_exclude_set()
        on = _C._dispatch_tls_local_include_set()
        guard: AbstractContextManager[Any] = _C._ForceDispatchKeyGuard(on, off - (keys - off_at_entry))
    except (AttributeError, RuntimeError):  # another version
        return None
    return guard


def _counting_versions() -> AbstractContextManager[Any]:
    guard: AbstractContextManager[Any] = _C._SetExcludeDispatchKeyGuard(_KEYS.ADInplaceOrView, False)
    return guard


def _is_called_by_another() -> bool:
    """Whether a mode or a tensor of the program calls the operator: for it all this is off, watched or not."""
    frame: FrameType | None = _getframe(3)
    while frame is not None:
        if frame.f_code.co_name == "__torch_dispatch__":
            return True
        frame = frame.f_back
    return False
