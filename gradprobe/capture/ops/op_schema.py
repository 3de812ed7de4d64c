"""Plans of operators: their effects on tensors as the schema implies, looked up once per operator."""

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
    """The way to call one operator, and what to read around the call.

    ``writes`` lists the arguments that the operator modifies in place, as pairs of position and name. ``is_view`` is true
    if the operator returns a view or may return one. ``tracks`` is true if autograd tracks that view, and None until the
    first call has shown it. ``make_guard`` returns the context manager in which the operator must be called; it is None
    for operators that need no guard.
    """

    __slots__ = ("call", "is_composite", "is_detach", "is_sum", "is_view", "make_guard", "name", "tracks", "writes")

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
        self.make_guard = _choose_guard(func, self) if schema is not None else None
        self.tracks: bool | None = None

    def written(self, args: Any, kwargs: Any) -> Iterator[torch.Tensor]:
        """Yield the tensors that the call modifies in place; twice a tensor that a list holds twice."""
        for position, name in self.writes:
            value = args[position] if position < len(args) else kwargs.get(name) if kwargs else None
            yield from iter_tensors(value)


_FRESH = ("aten.lift_fresh",)
"""Operators that return their argument, a tensor just created from Python numbers; not a view."""


PYTHON_ONLY, PLAIN, KERNEL, COMPOSITE = range(4)
"""Ways in which the native core calls an operator; ``core.cpp`` mirrors the numbers.

``PYTHON_ONLY``: the Python core calls it. ``PLAIN``: without a guard. ``KERNEL`` and ``COMPOSITE``: under the guards that
``guard_for_kernel`` and ``restore_caller_keys`` return.
"""


def choose_native_path(func: Any, plan: OpPlan) -> int:
    """Return the way in which the native core calls ``func``, whose plan is ``plan``."""
    if plan.writes or func.namespace != "aten":
        return PYTHON_ONLY
    if plan.make_guard is None:
        return PLAIN
    if plan.make_guard is restore_caller_keys:
        return COMPOSITE
    return KERNEL if plan.make_guard is guard_for_kernel else PYTHON_ONLY


def _is_written(value: Any) -> bool:
    return value.alias_info is not None and value.alias_info.is_write


def _aliases(value: Any) -> bool:
    return value.alias_info is not None and not value.alias_info.is_write


def _choose_guard(func: Any, plan: OpPlan) -> Callable[[FrameType | None, Any], Guard | None] | None:
    is_custom = f"{func.namespace}::{func._schema.name.split('::')[-1]}" in OPDEFS
    if _has_kernel(func, "ADInplaceOrView") and not is_custom:
        return None  # PyTorch counts and tracks it as a whole, above the dispatch mode
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
    except RuntimeError:  # an operator of TorchScript, such as those that read the size of a tensor of another kind
        return False
