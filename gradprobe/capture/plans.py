"""What an operator does to tensors, as its schema tells, looked up once per operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch

from gradprobe.capture.kernels import as_unwatched, conjugating, counting_versions


class Plan:
    """How to call one operator, and what to look at around the call.

    ``writes`` are the arguments that it changes in place, as position and name. ``is_view`` says that it returns a view, or
    may return one; ``tracks`` whether autograd tracks that view, None until it was seen once. ``surroundings`` makes of
    the arguments the block that it must be called in, None where it needs none.
    """

    __slots__ = ("call", "is_composite", "is_detach", "is_view", "name", "surroundings", "tracks", "writes")

    def __init__(self, func: Any) -> None:
        schema = getattr(func, "_schema", None)
        self.call: Callable[..., Any] = getattr(func, "_op", func)
        self.name = f"{func.namespace}.{func.__name__}" if schema is not None else str(func)
        self.name = self.name.removesuffix(".default")
        self.writes = [] if schema is None else [(i, a.name) for i, a in enumerate(schema.arguments) if _is_written(a)]
        self.is_view = schema is not None and any(_aliases(value) for value in schema.returns)
        consists_of_others = schema is not None and _has_kernel(func, "CompositeImplicitAutograd")
        self.is_composite = self.is_view and consists_of_others
        self.is_detach = self.name == "aten.detach"
        self.surroundings: Callable[[Any], AbstractContextManager[Any]] | None = None
        if schema is not None and not _has_kernel(func, "ADInplaceOrView"):
            if consists_of_others:
                self.surroundings = as_unwatched
            elif self.writes or self.is_view:
                self.surroundings = counting_versions
            elif _takes_tensor(schema) and ("linalg" in self.name or _has_kernel(func, "CompositeExplicitAutograd")):
                self.surroundings = conjugating
        self.tracks: bool | None = None

    def written(self, args: Any, kwargs: Any) -> Iterator[torch.Tensor]:
        """The tensors that the call changes in place; one in a list twice comes twice."""
        for position, name in self.writes:
            value = args[position] if position < len(args) else kwargs.get(name) if kwargs else None
            yield from tensors(value)


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in an operator's argument or result."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            if isinstance(item, torch.Tensor):
                yield item


def _takes_tensor(schema: Any) -> bool:
    return bool(schema.arguments) and str(schema.arguments[0].type) == "Tensor"


def _is_written(value: Any) -> bool:
    return value.alias_info is not None and value.alias_info.is_write


def _aliases(value: Any) -> bool:
    return value.alias_info is not None and not value.alias_info.is_write


def _has_kernel(func: Any, key: str) -> bool:
    has_kernel = getattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", None)
    try:
        return has_kernel is not None and bool(has_kernel(func.name(), key))
    except RuntimeError:  # one of TorchScript's, as those that ask a tensor of another kind for its size
        return False
