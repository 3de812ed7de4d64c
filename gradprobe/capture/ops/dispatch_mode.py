"""The dispatch mode of a thread, and its place on the mode stack: below the program's modes."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def pass_through(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    """Call the operator without observing it."""
    return func(*args, **(kwargs or {}))


class ObserverMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Dispatch mode of one thread.

    It does nothing by itself: an attribute of the object, set per thread, takes the place of ``__torch_dispatch__``.
    Compiled code is kept out of it, so that it compiles as it would without gradprobe.
    """

    __torch_dispatch__ = pass_through

    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def insert_mode(mode: ObserverMode) -> None:
    """Push ``mode`` below the program's modes.

    Each of those pops the top of the stack when it exits, so nothing may lie above them. Drop an earlier ``ObserverMode``
    that no longer does anything: its recording was stopped in a place from which this stack could not be changed.
    """
    above = [
        other for other in _pop_modes(None) if type(other) is not ObserverMode or "__torch_dispatch__" in vars(other)
    ]
    torch._C._push_on_torch_dispatch_stack(mode)
    for other in reversed(above):
        torch._C._push_on_torch_dispatch_stack(other)


def remove_mode(mode: ObserverMode) -> None:
    """Remove ``mode`` from the stack, wherever it is, and leave the others in their order.

    Inside an operator, and where the program has popped all modes, it is not on the stack; PyTorch pushes it again later.
    """
    above = _pop_modes(mode)
    for other in reversed(above):
        torch._C._push_on_torch_dispatch_stack(other)


def _pop_modes(mode: ObserverMode | None) -> list[Any]:
    """Pop the modes down to ``mode`` and ``mode`` itself; return those above it, the top one first."""
    taken: list[Any] = []
    for _ in range(_count_user_modes()):
        top = torch._C._pop_torch_dispatch_stack(None)
        if top is mode:
            return taken
        taken.append(top)
    return taken


def _count_user_modes() -> int:
    """Return the number of modes without PyTorch's infrastructure modes, which have their own slots."""
    stack = [torch._C._get_dispatch_stack_at(i) for i in range(torch._C._len_torch_dispatch_stack())]
    return sum(getattr(mode, "_mode_key", None) is None for mode in stack)
