"""Persistent places: the attributes, globals, closures and caches that keep tensors, by the names of the source.

Unlike ``holders.py``, which names the variable that an author would name, this search finds the attribute or global
variable nearest to each tensor and what leads on from there, so that code which reads it can be found in the source.
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import FrameType, FunctionType, ModuleType
from typing import Any

from gradprobe.capture.location.frames import USER, FrameClassifier, forget_locals, list_other_frames, walk_frames
from gradprobe.capture.location.holders import list_members, may_contain, name_self

_MAX_DEPTH = 8
_MAX_OBJECTS, _MAX_OBJECTS_OF_ROOT = 20_000, 4_000
"""Maximum number of objects looked at in one search, and behind one variable."""
_CACHE_TYPES = ("_lru_cache_wrapper", "_lru_list_elem")


@dataclass(frozen=True)
class PersistentPlace:
    """Attribute, global variable, variable of a closure or cache that holds a tensor.

    Attributes:
        name: Expression that leads to the tensor, such as ``Model.cache['k'][...]``.
        kind: ``attribute``, ``parameter``, ``buffer``, ``global``, ``closure`` or ``cache``.
        key: Name of the attribute, variable or cached function.
        owner: Name of the class whose attribute it is, or of the function whose variable it is.
        depth: Number of items of containers that lead from there to the tensor.
        file: File of the module whose global variable leads there; empty if a local variable does.
    """

    name: str
    kind: str
    key: str
    owner: str
    depth: int
    file: str = ""


def find_persistent_places(
    wanted: set[int], codes: FrameClassifier, frame: FrameType | None, roots: Iterable[Any]
) -> dict[int, PersistentPlace]:
    """Return the places of the tensors with these ids, as far as they have one.

    Args:
        wanted: The ids of the tensors.
        codes: The kinds of code.
        frame: The innermost frame of the calling thread to look at.
        roots: Further objects to search, such as the outermost modules.
    """
    search = _Search(wanted)
    frames = [each for each in walk_frames(frame or sys._getframe()) if codes.kind(each.f_code) == USER]
    for other in list_other_frames():
        frames += [each for each in walk_frames(other) if codes.kind(each.f_code) == USER and each not in frames]
    files = {code.co_filename for code in list(codes.held.values()) if codes.kind(code) == USER}
    try:
        for variables in _list_globals(frames, files):
            for name, value in list(variables.items()):
                if not isinstance(value, ModuleType) and not name.startswith("__"):
                    file = str(variables.get("__file__") or "")
                    search.run(value, name, PersistentPlace(name, "global", name, "", 0, file))
        for each in frames:
            if each.f_code.co_name != "<module>":
                for name, value in list(each.f_locals.items()):
                    search.run(value, name_self(name, value), None)
        for root in roots:
            search.run(root, type(root).__name__, None)
    finally:
        forget_locals(frames)
    return search.found


def _list_globals(frames: list[FrameType], files: set[str]) -> Iterator[dict[str, Any]]:
    known: set[int] = set()
    modules = [vars(module) for module in list(sys.modules.values()) if isinstance(module, ModuleType)]
    own = [names for names in modules if names.get("__name__") == "__main__" or names.get("__file__") in files]
    for variables in [*(frame.f_globals for frame in frames), *own]:
        if id(variables) not in known:
            known.add(id(variables))
            yield variables


class _Search:
    def __init__(self, wanted: set[int]) -> None:
        self.found: dict[int, PersistentPlace] = {}
        self._wanted = wanted
        self._seen: set[int] = set()
        self._left = _MAX_OBJECTS

    def run(self, value: Any, name: str, place: PersistentPlace | None) -> None:
        """Search what ``value``, called ``name``, leads to; ``place`` is where it is, None for a local variable."""
        waiting: deque[tuple[Any, str, PersistentPlace | None, int]] = deque([(value, name, place, 0)])
        last = max(self._left - _MAX_OBJECTS_OF_ROOT, 0)
        while waiting and self._left > last and len(self.found) < len(self._wanted):
            self._left -= 1
            current, path, place, depth = waiting.popleft()
            if id(current) in self._wanted:
                if place is not None:
                    self.found.setdefault(id(current), place)
                continue
            if (
                depth == _MAX_DEPTH
                or id(current) in self._seen
                or not (may_contain(current) or isinstance(current, type))
            ):
                continue
            self._seen.add(id(current))
            for step, member, inside in _list_steps(current, path, place):
                waiting.append((member, step, inside, depth + 1))


def _list_steps(
    value: Any, path: str, place: PersistentPlace | None
) -> Iterator[tuple[str, Any, PersistentPlace | None]]:
    """Yield the names of the members of ``value``, the members, and the places that they are in."""
    file = "" if place is None else place.file
    if type(value).__name__ in _CACHE_TYPES:
        function = getattr(value, "__wrapped__", None)
        name = path if function is None else f"the cache of {function.__qualname__}"
        kept = place if function is None else PersistentPlace(name, "cache", function.__name__, "", 0, file)
        for member in gc.get_referents(value):
            if isinstance(member, dict) or type(member).__name__ == "_lru_list_elem" or hasattr(member, "is_inference"):
                yield name, member, kept
        return
    if isinstance(value, type):
        if value.__module__.partition(".")[0] not in ("builtins", "torch"):
            for name, member in list(vars(value).items()):
                if not name.startswith("__") and not callable(member):
                    yield _named(f"{value.__name__}.{name}", "attribute", name, value.__name__, member, file)
        return
    buffers, parameters = getattr(value, "_buffers", None), getattr(value, "_parameters", None)
    for step, member in list_members(value):
        at = path + step
        if step.startswith(".") and step[1:].isidentifier():
            key = step[1:]
            kind = "closure" if isinstance(value, FunctionType) else "attribute"
            if isinstance(buffers, dict) and key in buffers:
                kind = "buffer"
            elif isinstance(parameters, dict) and key in parameters:
                kind = "parameter"
            owner = value.__name__ if isinstance(value, FunctionType) else type(value).__name__
            yield _named(at, kind, key, owner, member, file)
        elif step.startswith("["):
            inside = None if place is None else replace(place, name=at, depth=place.depth + 1)
            yield at, member, inside
        else:
            yield at, member, place


def _named(name: str, kind: str, key: str, owner: str, member: Any, file: str) -> tuple[str, Any, PersistentPlace]:
    return name, member, PersistentPlace(name, kind, key, owner, 0, file)
