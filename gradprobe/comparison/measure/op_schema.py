"""What the schema of an operator says of its effects on tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gradprobe.capture.autograd.values import iter_tensors

_FRESH = ("aten::lift_fresh",)
"""Operators that return their argument, a tensor just created from Python numbers; not a view."""


class OpSchema:
    """The effects of one operator.

    Attributes:
        is_view: True if it returns a view or may return one.
        is_composite: True if it is made of other operators that have derivatives of their own.
    """

    def __init__(self, func: Any) -> None:
        schema = getattr(func, "_schema", None)
        arguments = [] if schema is None else schema.arguments
        self._written = [
            (position, argument.name)
            for position, argument in enumerate(arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        self.is_view = schema is not None and schema.name not in _FRESH and any(map(_aliases, schema.returns))
        self.is_composite = schema is not None and _is_composite(func)

    def written(self, args: Any, kwargs: Any) -> Iterator[torch.Tensor]:
        """Yield the tensors that the call modifies in place; twice a tensor that a list holds twice."""
        for position, name in self._written:
            value = args[position] if position < len(args) else kwargs.get(name) if kwargs else None
            yield from iter_tensors(value)


def _aliases(value: Any) -> bool:
    return value.alias_info is not None and not value.alias_info.is_write


def _is_composite(func: Any) -> bool:
    try:
        return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))
    except RuntimeError:  # an operator of TorchScript, such as those that read the size of a tensor of another kind
        return False
