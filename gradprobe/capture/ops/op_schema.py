"""What an operator does to tensors, as its schema tells, looked up once per operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from torch._library.custom_ops import OPDEFS

from gradprobe.capture.autograd.values import iter_tensors
from gradprobe.capture.ops.dispatch_keys import (
    Guard,
    guard_for_custom_op,
    guard_for_kernel,
    include_adinplaceorview,
    redispatch_below_adinplaceorview,
    restore_caller_keys,
)


class OpPlan:
    """How to call one operator, and what to look at around the call.

    ``writes`` are the arguments that it changes in place, as position and name. ``is_view`` says that it returns a view, or
    may return one; ``tracks`` whether autograd tracks that view, None until it was seen once. ``surroundings`` makes the
    block that it must be called in, None where it needs none.
    """

    __slots__ = ("call", "is_composite", "is_detach", "is_sum", "is_view", "name", "surroundings", "tracks", "writes")

    def __init__(self, func: Any) -> None:
        schema = getattr(func, "_schema", None)
        self.call: Callable[..., Any] = getattr(func, "_op", func)
        self.name = f"{func.namespace}.{func.__name__}" if schema is not None else str(func)
        self.name = self.name.removesuffix(".default")
        self.writes = [] if schema is None else [(i, a.name) for i, a in enumerate(schema.arguments) if _is_written(a)]
        self.is_view = schema is not None and any(_aliases(value) for value in schema.returns)
        self.is_view &= self.name not in _FRESH
        self.is_composite = schema is not None and _has_kernel(func, "CompositeImplicitAutograd")
        self.is_detach = self.name == "aten.detach"
        self.is_sum = self.name.startswith(("aten.add.", "aten.add_.", "aten.sub.", "aten.sub_."))
        self.surroundings = _surroundings(func, self) if schema is not None else None
        self.tracks: bool | None = None

    def written(self, args: Any, kwargs: Any) -> Iterator[torch.Tensor]:
        """The tensors that the call changes in place; one in a list twice comes twice."""
        for position, name in self.writes:
            value = args[position] if position < len(args) else kwargs.get(name) if kwargs else None
            yield from iter_tensors(value)


_FRESH = ("aten.lift_fresh",)
"""They return what they were given, a tensor that has just been made of numbers."""


SLOW, PLAIN, OF_A_KERNEL, COMPOSITE = range(4)
"""How the native core calls an operator: not at all; as it is, or as ``kernels`` says of a kernel, of what has parts."""


def choose_native_path(func: Any, plan: OpPlan) -> int:
    """How the native core calls the operator that ``plan`` is of."""
    if plan.writes or func.namespace != "aten":
        return SLOW
    if plan.surroundings is None:
        return PLAIN
    if plan.surroundings is restore_caller_keys:
        return COMPOSITE
    return OF_A_KERNEL if plan.surroundings is guard_for_kernel else SLOW


def _is_written(value: Any) -> bool:
    return value.alias_info is not None and value.alias_info.is_write


def _aliases(value: Any) -> bool:
    return value.alias_info is not None and not value.alias_info.is_write


def _surroundings(func: Any, plan: OpPlan) -> Callable[[FrameType | None, Any], Guard | None] | None:
    is_custom = f"{func.namespace}::{func._schema.name.split('::')[-1]}" in OPDEFS
    if _has_kernel(func, "ADInplaceOrView") and not is_custom:
        return None  # it is counted and tracked as a whole, above the mode
    if plan.is_composite:
        return restore_caller_keys
    if func.namespace != "aten":
        if is_custom and plan.writes:
            plan.call = redispatch_below_adinplaceorview(func)
        return guard_for_custom_op(lambda key: _has_kernel(func, key))
    if plan.writes or plan.is_view:
        return include_adinplaceorview
    calls_others = "linalg" in plan.name or _has_kernel(func, "CompositeExplicitAutograd")
    return guard_for_kernel if calls_others and _takes_tensor(func) else None


def _takes_tensor(func: Any) -> bool:
    arguments = func._schema.arguments
    return bool(arguments) and str(arguments[0].type).startswith(("Tensor", "List[Tensor]"))


def _has_kernel(func: Any, key: str) -> bool:
    try:
        return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key))
    except RuntimeError:  # one of TorchScript's, as those that ask a tensor of another kind for its size
        return False
