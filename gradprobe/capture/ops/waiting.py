"""Whether PyTorch is done with the operators that are pending, or itself calls others before it is."""

from __future__ import annotations

from typing import Any

import torch

from gradprobe.capture.ops.attribution import PendingOp
from gradprobe.capture.ops.op_schema import OpPlan

_WAITING = 8
"""How many operators of PyTorch's own may follow one that is pending before that is settled."""


def must_defer(plan: OpPlan, args: Any, pending: list[PendingOp]) -> bool:
    """Whether PyTorch itself may be calling ``detach`` or a view, while it is not yet done with what is pending.

    It calls ``detach`` to save an output. It makes a view anew that was changed in place, and holds that view's lock the
    while: to ask for the view's node then, as settling does, would wait for ever.
    """
    if len(pending) > _WAITING:
        return False
    if plan.is_detach:
        return True
    if not any(one.writes for one in pending) or not args or not isinstance(args[0], torch.Tensor):
        return False
    base = args[0]._base if args[0]._is_view() else args[0]
    return any(
        tensor is not None and tensor._is_view() and tensor._base is base and _is_made_anew_by_an_operator(tensor)
        for one in pending
        for tensor in (*(ref() for ref in one.outputs), *(write.tensor() for write in one.writes))
    )


def _is_made_anew_by_an_operator(view: torch.Tensor) -> bool:
    """Whether strides alone do not tell how to get from the base to the view."""
    base = view._base
    is_strided = view.layout is torch.strided and base is not None and view.dtype == base.dtype
    return not is_strided or view.is_conj() or view.is_neg() or type(view) is not torch.Tensor or _replays_views()


def _replays_views() -> bool:
    is_enabled = getattr(torch._C, "_is_view_replay_enabled", None)
    return is_enabled is not None and bool(is_enabled())
