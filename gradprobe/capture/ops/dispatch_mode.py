"""The dispatch mode of a thread, and its place on the stack: below whatever modes the program puts there itself."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def pass_through(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    return func(*args, **(kwargs or {}))


class ObserverMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The mode of one thread. What is compiled stays out of it, so that it compiles as it would unwatched.

    It does nothing but what an attribute of the object does instead.
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
    """Puts ``mode`` below the program's own modes, each of which takes whatever is on top for itself when it ends.

    One of ours that does nothing any more goes: its recording was stopped where it could not be taken from this stack.
    """
    above = [
        other for other in _take_down(None) if type(other) is not ObserverMode or "__torch_dispatch__" in vars(other)
    ]
    torch._C._push_on_torch_dispatch_stack(mode)
    for other in reversed(above):
        torch._C._push_on_torch_dispatch_stack(other)


def remove_mode(mode: ObserverMode) -> None:
    """Takes ``mode`` from the stack, wherever it is, and leaves the others in their order.

    Inside an operator, and where the program took all modes down, it is not there, and PyTorch puts it back later.
    """
    above = _take_down(mode)
    for other in reversed(above):
        torch._C._push_on_torch_dispatch_stack(other)


def _take_down(mode: ObserverMode | None) -> list[Any]:
    """Takes the program's modes from the stack down to ``mode``, which goes too; gives those above it, the top first."""
    taken: list[Any] = []
    for _ in range(_own_modes()):
        top = torch._C._pop_torch_dispatch_stack(None)
        if top is mode:
            return taken
        taken.append(top)
    return taken


def _own_modes() -> int:
    """How many modes there are that are none of PyTorch's own infrastructure, which has places of its own."""
    stack = [torch._C._get_dispatch_stack_at(i) for i in range(torch._C._len_torch_dispatch_stack())]
    return sum(getattr(mode, "_mode_key", None) is None for mode in stack)
