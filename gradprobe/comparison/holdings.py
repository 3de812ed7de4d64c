"""Lists, dicts, sets and objects as they were, so that what is put in or taken out can be put right."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

_SCALARS = (int, float, complex, str, bytes)


def is_container(value: object) -> bool:
    """Whether it holds other values that it can exchange; of objects, the attributes are meant."""
    if isinstance(value, list | dict | set):
        return True
    known = Tensor | nn.Module | type | types.ModuleType | types.FunctionType | types.MethodType
    return not isinstance(value, known) and isinstance(getattr(value, "__dict__", None), dict)


class Holdings:
    """What containers hold, kept from when this is made."""

    def __init__(self, containers: Iterable[object]) -> None:
        found = {id(value): value for value in map(_inner, containers)}
        self._held: list[tuple[Any, Any]] = [(value, value.copy()) for value in found.values()]

    def changed(self) -> int:
        """How many of them hold something else now."""
        return sum(not _is_same(*held) for held in self._held)

    def put_back(self) -> None:
        for now, before in self._held:
            if _is_same(now, before):
                continue
            if isinstance(now, list):
                now[:] = before
            else:
                now.clear()
                now.update(before)


def _inner(value: Any) -> list[Any] | dict[Any, Any] | set[Any]:
    if isinstance(value, list | dict | set):
        return value
    attributes: dict[Any, Any] = value.__dict__
    return attributes


def _is_same(now: Any, before: Any) -> bool:
    if len(now) != len(before):
        return False
    if isinstance(now, Mapping):
        return all(name in before and _is_equal(one, before[name]) for name, one in now.items())
    if isinstance(now, list):
        return all(map(_is_equal, now, before))
    return {id(one) for one in now} == {id(one) for one in before}


def _is_equal(one: object, other: object) -> bool:
    """Of values that cannot change, an equal one will do; to ask others whether they are equal may run anything."""
    return one is other or (type(one) is type(other) and isinstance(one, _SCALARS) and one == other)
