"""What PyTorch has switched off by the time it calls a dispatch mode, switched on again where a kernel needs it.

By then the dispatcher has passed autocasting, autograd, the counting of versions and the handling of lazy conjugates, and
leaves them out of all that the mode calls. For the kernel of a single operator that is right. An operator that consists of
others comes to a mode whole under inference mode, and its parts never passed any of them: left out, an ``einsum`` would
not be autocast, and a product would take another way to another rounding. A kernel that conjugates lazily in between, as
that of the pseudo-inverse does, would compute nonsense.
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
_ABOVE = ["ADInplaceOrView", *_LAZY, *_AUTOCAST]


def _set_of(names: list[str]) -> Any:
    keys = [getattr(_KEYS, name) for name in names if hasattr(_KEYS, name)]
    found = _C.DispatchKeySet(keys[0])
    for key in keys[1:]:
        found = found.add(key)
    return found


_ALL: Any = _set_of(_ABOVE)
_OF_COMPLEX: Any = _set_of(_LAZY)


Guard = AbstractContextManager[Any]


def include_adinplaceorview(line: FrameType | None, args: Any) -> Guard | None:
    """A block in which the parts of an operator, called from ``line`` with ``args``, count versions and track views.

    None if they must not: for what the program's own modes and tensors call, all this is off, watched or not.
    """
    return None if _is_called_by_another(line) else _counting_versions()


def guard_for_kernel(line: FrameType | None, args: Any) -> Guard | None:
    """A block in which a kernel that calls other operators may conjugate and negate lazily, where it has complex numbers.

    In inference mode, where no kernel of autograd's above the mode left it out, it also counts versions.
    """
    if torch.is_inference_mode_enabled():
        return restore_caller_keys(line, args)
    with _C.DisableTorchFunction():  # modes and tensors of the program hear of no question of ours
        is_complex = bool(args) and isinstance(args[0], torch.Tensor) and args[0].is_complex()
    return _reopening(_OF_COMPLEX) if is_complex and not _is_called_by_another(line) else None


def restore_caller_keys(line: FrameType | None, args: Any) -> Guard | None:
    """A block in which the parts of an operator pass all that they would if no mode had been called with the whole."""
    return None if _is_called_by_another(line) else _reopening(_ALL) or _counting_versions()


def guard_for_custom_op(has_kernel: Callable[[str], bool]) -> Callable[[FrameType | None, Any], Guard | None]:
    """What gives the block for an operator that is not PyTorch's own, and says for which keys it has a kernel.

    Unwatched its kernel runs with all on, but for what kernels of its own above have switched off: those for autograd
    and autocasting do, PyTorch's for operators without one do not.
    """
    names = ["ADInplaceOrView", *_LAZY]
    if not any(map(has_kernel, ["AutocastCPU", "AutocastCUDA"])):
        names += _AUTOCAST
    if not any(map(has_kernel, ["Autograd", "AutogradCPU", "AutogradCUDA"])):
        names += _AUTOGRAD
    keys = _set_of(names)

    def surroundings(line: FrameType | None, args: Any) -> Guard | None:
        return None if _is_called_by_another(line) else _reopening(keys) or _counting_versions()

    return surroundings


def redispatch_below_adinplaceorview(func: Any) -> Callable[..., Any]:
    """A call of a custom operator that leaves out its own counting of versions, which has been done above the mode."""
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


def _counting_versions() -> Guard:
    guard: Guard = _C._SetExcludeDispatchKeyGuard(_KEYS.ADInplaceOrView, False)
    return guard


def _reopening(keys: Any) -> Guard | None:
    """A block in which those of ``keys`` are on that were on when the program called PyTorch."""
    try:
        on, off = _C._dispatch_tls_local_include_set(), _C._dispatch_tls_local_exclude_set()
        # Whether autocasting is on can no longer be asked here: its keys are off as all others are.
        with _C._RestorePythonTLSSnapshot():
            off_at_entry = _C._dispatch_tls_local_exclude_set()
        guard: Guard = _C._ForceDispatchKeyGuard(on, off - (keys - off_at_entry))
    except (AttributeError, RuntimeError):  # another version
        return None
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
