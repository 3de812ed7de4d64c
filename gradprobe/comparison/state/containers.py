"""A list, dict, set, closure cell, or the attributes of an object: what it held, and how to put that back."""

from __future__ import annotations

from collections import deque
from types import CellType
from typing import Any

from torch import Tensor

ContainerValues = dict[Any, object]


class ContainerState:
    """What ``holder`` held when this was made: the very objects. ``names`` are the keys that count, all if None."""

    def __init__(self, holder: Any, names: tuple[str, ...] | None = None) -> None:
        self._holder = holder
        self._names = names
        self.held = self.now()

    def now(self) -> ContainerValues:
        """What it holds now, by key or place."""
        holder = self._holder
        if isinstance(holder, CellType):
            try:
                return {0: holder.cell_contents}
            except ValueError:  # empty
                return {}
        if isinstance(holder, dict):
            return dict(holder) if self._names is None else {n: holder[n] for n in self._names if n in holder}
        return {one: one for one in holder} if isinstance(holder, set) else dict(enumerate(holder))

    def restore_values(self, held: ContainerValues) -> None:
        """Has it hold again what it held then."""
        holder = self._holder
        if isinstance(holder, CellType):
            if held:
                holder.cell_contents = held[0]
            else:
                del holder.cell_contents
        elif isinstance(holder, dict):
            for name in [name for name in self.now() if name not in held]:
                del holder[name]
            holder.update(held)
        elif isinstance(holder, list):
            holder[:] = held.values()
        else:
            holder.clear()
            (holder.extend if isinstance(holder, deque) else holder.update)(held.values())


def is_same_content(one: ContainerValues, other: ContainerValues) -> bool:
    """Whether two readings of a holder show the same objects, or numbers and texts that are equal."""
    return one.keys() == other.keys() and all(_is_same(value, other[key]) for key, value in one.items())


def has_grown(one: ContainerValues, other: ContainerValues) -> bool:
    """Whether the later reading shows more, so that each call would find more than the one before."""
    return len(one) != len(other) or any(
        isinstance(value, Tensor) != isinstance(other.get(key), Tensor)
        or (isinstance(value, Tensor) and value.shape != getattr(other.get(key), "shape", None))
        for key, value in one.items()
    )


def _is_same(one: object, other: object) -> bool:
    if one is other:
        return True
    return type(one) is type(other) and isinstance(one, int | float | str | bytes) and one == other
