"""Guards that include dispatch keys again which PyTorch excludes before it calls a dispatch mode.

By then the dispatcher has passed autocast, autograd, ADInplaceOrView (which bumps version counters and tracks views) and
the keys of lazy conjugation and negation, and excludes them from all that the mode calls. That is right for the kernel of
a single operator. But under inference mode a composite operator reaches the mode as a whole, and its parts have passed
none of these keys: without them an ``einsum`` would not be autocast, and a product would take another path and round
differently. A kernel that conjugates lazily in between, such as that of the pseudo-inverse, would compute wrong numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

import torch

_C: Any = torch._C
_KEYS: Any = _C.DispatchKey
_LAZY = ["ZeroTensor", "Negative", "Conjugate"]
_AUTOCAST = [name for name in dir(_KEYS) if name.startswith("Autocast") and "Functionality" not in name]
_AUTOGRAD = ["AutogradCPU", "AutogradOther", "AutogradNestedTensor"]
_KEYS_ABOVE_MODE = ["ADInplaceOrView", *_LAZY, *_AUTOCAST]


def _make_key_set(names: list[str]) -> Any:
    keys = [getattr(_KEYS, name) for name in names if hasattr(_KEYS, name)]
    found = _C.DispatchKeySet(keys[0])
    for key in keys[1:]:
        found = found.add(key)
    return found


_KEY_SET_ABOVE_MODE: Any = _make_key_set(_KEYS_ABOVE_MODE)
_LAZY_KEY_SET: Any = _make_key_set(_LAZY)


Guard = AbstractContextManager[Any]


def include_adinplaceorview(line: FrameType | None, args: Any) -> Guard | None:
    """Return a guard under which the parts of an operator bump versions and track views.

    The operator is called from ``line`` with ``args``. Return None if its parts must not do so: PyTorch excludes these
    keys from all that the program's own dispatch modes and tensor subclasses call, with or without gradprobe.
    """
    return None if _is_called_by_another(line) else _include_adinplaceorview_key()


def guard_for_kernel(line: FrameType | None, args: Any) -> Guard | None:
    """Return a guard under which a kernel that calls other operators may conjugate and negate lazily.

    Only complex tensors need it. In inference mode no autograd kernel above the dispatch mode has excluded
    ADInplaceOrView, so the guard includes that key too.
    """
    if torch.is_inference_mode_enabled():
        return restore_caller_keys(line, args)
    with _C.DisableTorchFunction():  # so that the program's function modes and tensor subclasses do not see our reads
        is_complex = bool(args) and isinstance(args[0], torch.Tensor) and args[0].is_complex()
    return _restore_keys(_LAZY_KEY_SET) if is_complex and not _is_called_by_another(line) else None


def restore_caller_keys(line: FrameType | None, args: Any) -> Guard | None:
    """Return a guard under which the parts of an operator pass the keys they would pass without a mode."""
    return None if _is_called_by_another(line) else _restore_keys(_KEY_SET_ABOVE_MODE) or _include_adinplaceorview_key()


def guard_for_custom_op(has_kernel: Callable[[str], bool]) -> Callable[[FrameType | None, Any], Guard | None]:
    """Build the ``make_guard`` of an operator that is not PyTorch's own.

    ``has_kernel`` returns whether the operator has a kernel for a dispatch key. Without a dispatch mode its kernel runs
    with all keys included, except those that kernels of its own above have excluded: kernels for autograd and autocast
    exclude their key, PyTorch's fallbacks for operators without such a kernel do not.
    """
    names = ["ADInplaceOrView", *_LAZY]
    if not any(map(has_kernel, ["AutocastCPU", "AutocastCUDA"])):
        names += _AUTOCAST
    if not any(map(has_kernel, ["Autograd", "AutogradCPU", "AutogradCUDA"])):
        names += _AUTOGRAD
    keys = _make_key_set(names)

    def make_guard(line: FrameType | None, args: Any) -> Guard | None:
        return None if _is_called_by_another(line) else _restore_keys(keys) or _include_adinplaceorview_key()

    return make_guard


def redispatch_below_adinplaceorview(func: Any) -> Callable[..., Any]:
    """Build a call of a custom operator that skips its ADInplaceOrView kernel, which has run already."""
    after: Any = getattr(_C, "_after_ADInplaceOrView_keyset", None)

    def call(*args: Any, **kwargs: Any) -> Any:
        keys = _C.DispatchKeySet(_KEYS.Undefined)
        for value in (*args, *kwargs.values()):
            for item in value if isinstance(value, list | tuple) else (value,):
                if isinstance(item, torch.Tensor):
                    keys = keys | _C._dispatch_keys(item)
        if after is None or keys.has(_KEYS.Python) or _C._len_torch_dispatch_stack():
            return func._op(*args, **kwargs)
        return func.redispatch(keys & after, *args, **kwargs)

    return call


def _include_adinplaceorview_key() -> Guard:
    guard: Guard = _C._SetExcludeDispatchKeyGuard(_KEYS.ADInplaceOrView, False)
    return guard


def _restore_keys(keys: Any) -> Guard | None:
    """Return a guard that includes those ``keys`` that were included when the program called PyTorch."""
    try:
        on, off = _C._dispatch_tls_local_include_set(), _C._dispatch_tls_local_exclude_set()
        # Autocast cannot be read from the keys here: they are excluded like all the others.
        with _C._RestorePythonTLSSnapshot():
            off_at_entry = _C._dispatch_tls_local_exclude_set()
        guard: Guard = _C._ForceDispatchKeyGuard(on, off - (keys - off_at_entry))
    except (AttributeError, RuntimeError):  # another version of PyTorch
        return None
    return guard


MAX_CALLER_FRAMES = 6
"""Maximum number of frames, from an operator's caller outwards, searched for a dispatch mode."""


def _is_called_by_another(line: FrameType | None) -> bool:
    """Return whether a dispatch mode or a tensor subclass of the program calls the operator."""
    for _ in range(MAX_CALLER_FRAMES):
        if line is None:
            return False
        if line.f_code.co_name == "__torch_dispatch__":
            return True
        line = line.f_back
    return False
