"""A cache by the identity of objects that may be neither hashable nor kept alive."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def cache_by_identity(compute: Callable[[Any], T]) -> Callable[[Any], T]:
    """Return ``compute`` with a memory of its results, each for as long as its argument exists.

    Addresses are reused after an object is freed, so each entry checks a weak reference. Results for objects without weak
    references are computed every time.
    """
    known: dict[int, tuple[weakref.ref[Any], T]] = {}

    def look_up(argument: Any) -> T:
        entry = known.get(id(argument))
        if entry is not None and entry[0]() is argument:
            return entry[1]
        result = compute(argument)
        with contextlib.suppress(TypeError):
            key = id(argument)
            known[key] = (weakref.ref(argument, lambda _: known.pop(key, None)), result)
        return result

    return look_up
