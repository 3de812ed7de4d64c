"""State of a list, dict, set, closure cell or attribute dict: the objects it held, and how to restore them."""

from __future__ import annotations

from collections import deque
from types import CellType
from typing import Any

from torch import Tensor

ContainerValues = dict[Any, object]
"""Values of a container by key or index."""


class ContainerState:
    """Values of a container when this object was made. ``names`` limits a dict to these keys."""

    def __init__(self, container: Any, names: tuple[str, ...] | None = None) -> None:
        self._container = container
        self._names = names
        self.values = self.read()

    def read(self) -> ContainerValues:
        """Return the present values of the container."""
        container = self._container
        if isinstance(container, CellType):
            try:
                return {0: container.cell_contents}
            except ValueError:  # an empty cell
                return {}
        if isinstance(container, dict):
            return dict(container) if self._names is None else {n: container[n] for n in self._names if n in container}
        return {one: one for one in container} if isinstance(container, set) else dict(enumerate(container))

    def restore_values(self, values: ContainerValues) -> None:
        """Write earlier values back to the container."""
        container = self._container
        if isinstance(container, CellType):
            if values:
                container.cell_contents = values[0]
            else:
                del container.cell_contents
        elif isinstance(container, dict):
            for name in [name for name in self.read() if name not in values]:
                del container[name]
            container.update(values)
        elif isinstance(container, list):
            container[:] = values.values()
        else:
            container.clear()
            (container.extend if isinstance(container, deque) else container.update)(values.values())


def is_same_content(one: ContainerValues, other: ContainerValues) -> bool:
    """Return whether two readings of a container show the same objects, or equal numbers and strings."""
    return one.keys() == other.keys() and all(_is_same_value(value, other[key]) for key, value in one.items())


def has_grown(one: ContainerValues, other: ContainerValues) -> bool:
    """Return whether the later reading differs in size, so that each call would start from more than the previous one."""
    return len(one) != len(other) or any(
        isinstance(value, Tensor) != isinstance(other.get(key), Tensor)
        or (isinstance(value, Tensor) and value.shape != getattr(other.get(key), "shape", None))
        for key, value in one.items()
    )


def _is_same_value(one: object, other: object) -> bool:
    if one is other:
        return True
    return type(one) is type(other) and isinstance(one, int | float | str | bytes) and one == other
