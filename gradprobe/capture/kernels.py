"""What PyTorch has switched off by the time it calls a dispatch mode, switched on again where a kernel needs it.

By then the dispatcher has passed autocasting, autograd, the counting of versions and the handling of lazy conjugates, and
leaves them out of all that the mode calls. For the kernel of a single operator that is right. An operator that consists of
others comes to a mode whole under inference mode, and its parts never passed any of them: left out, an ``einsum`` would
not be autocast, and a product would take another way to another rounding.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

import torch

_C: Any = torch._C
_KEYS: Any = _C.DispatchKey
_ABOVE = ["ADInplaceOrView", "ZeroTensor", "Negative", "Conjugate"]
_ABOVE += [name for name in dir(_KEYS) if name.startswith("Autocast") and "Functionality" not in name]


def _set_of(names: list[str]) -> Any:
    keys = [getattr(_KEYS, name) for name in names if hasattr(_KEYS, name)]
    found = _C.DispatchKeySet(keys[0])
    for key in keys[1:]:
        found = found.add(key)
    return found


_REOPENED: Any = _set_of(_ABOVE)


Guard = AbstractContextManager[Any]


def counting_versions(line: FrameType | None) -> Guard | None:
    """A block in which the parts of an operator, called from ``line``, count versions and track views.

    None if they must not: for what the program's own modes and tensors call, all this is off, watched or not.
    """
    if _is_called_by_another(line):
        return None
    guard: Guard = _C._SetExcludeDispatchKeyGuard(_KEYS.ADInplaceOrView, False)
    return guard


def counting_versions_in_inference_mode(line: FrameType | None) -> Guard | None:
    """The same in inference mode; elsewhere None."""
    return counting_versions(line) if torch.is_inference_mode_enabled() else None


def as_unwatched(line: FrameType | None) -> Guard | None:
    """A block in which the parts of an operator pass all that they would if no mode had been called with the whole."""
    if _is_called_by_another(line):
        return None
    try:
        on, off = _C._dispatch_tls_local_include_set(), _C._dispatch_tls_local_exclude_set()
        # Whether autocasting is on can no longer be asked here: its keys are off as all others are.
        with _C._RestorePythonTLSSnapshot():
            off_at_entry = _C._dispatch_tls_local_exclude_set()
        guard: Guard = _C._ForceDispatchKeyGuard(on, off - (_REOPENED - off_at_entry))
    except (AttributeError, RuntimeError):  # another version
        return counting_versions(line)
    return guard


_NEAR = 6


def _is_called_by_another(line: FrameType | None) -> bool:
    """Whether a mode or a tensor of the program calls the operator."""
    for _ in range(_NEAR):
        if line is None:
            return False
        if line.f_code.co_name == "__torch_dispatch__":
            return True
        line = line.f_back
    return False
