"""Holders of objects: the variable, attribute or container of the program that keeps an object alive, by its name.

Looked for rarely, when something has grown. First down from the variables that the program can see, which gives the
name that its author knows; then up from the object along its referrers, which also finds closures, caches and
tracebacks.
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR, CO_OPTIMIZED
from types import (
    AsyncGeneratorType,
    CellType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    TracebackType,
)
from typing import Any

import torch

from gradprobe.capture.location.frames import USER, FrameClassifier, list_other_frames, walk_frames
from gradprobe.capture.location.sites import GRADPROBE_DIR, TORCH_DIR

_MAX_DEPTH = 6
_MAX_ITEMS = 100_000
"""Maximum number of objects looked at in one search."""
_SHARE_OF_VARIABLE = 20
"""One part in so many of them may be behind one variable: a large one must not hide the others."""
_MAX_ITEMS_OF_EXCEPTION = 20_000
"""Maximum number of objects looked at behind one exception: a program may catch many."""
_MAX_REFERRERS = 200
_MAX_LEVELS = 6
_MAX_CLIMBS, _MAX_CLIMBS_OF_EXCEPTION = 40, 12
"""Maximum number of objects whose referrers are looked for: each look goes through the whole heap."""
_MAX_MEMBERS = 2_000
"""Maximum number of members of a list or set, the last ones, that are looked at."""
_MAX_READS = 10
"""Maximum number of times that a container is read which changes meanwhile."""
_READ_BY_KIND: dict[type, Callable[[Any], Iterable[Any]]] = {
    kind: kind.__iter__ for kind in (list, tuple, set, frozenset, deque)
}
_OF_DICT = (GetSetDescriptorType, MemberDescriptorType)
"""Descriptors of ``__dict__`` in classes of Python, and in that of modules."""
_KEEPING = frozenset({"closure", "cache", "generator", "traceback"})
_SUSPENDABLE = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR


@dataclass(frozen=True)
class Holder:
    """Variable, attribute or other place that keeps an object alive.

    ``name`` is an expression such as ``history[...]`` or ``Trainer.losses[...]``, ``function`` the function whose
    variable it is, "" for a global variable; ``kind`` is one of ``local``, ``global``, ``attribute``, ``closure``,
    ``cache``, ``traceback``, ``generator``, ``other``.
    """

    name: str
    kind: str
    file: str = ""
    line: int = 0
    function: str = ""


def find_holder(
    wanted: list[Any], codes: FrameClassifier, frame: FrameType | None, roots: list[Any], *, goes_up: bool = True
) -> Holder | None:
    """Return what holds one of these objects, the program's variable if there is one.

    Args:
        wanted: The objects; what holds most of them is the answer.
        codes: The kinds of code.
        frame: The innermost frame to look at.
        roots: Further objects to search, such as the outermost modules.
        goes_up: Whether to go along the referrers of the objects if no variable leads to one, which takes much longer.
    """
    ids = {id(object_) for object_ in wanted}
    own = {id(wanted), id(ids)}
    for holder in _search_program(ids, codes, frame, roots):
        return holder
    for object_ in wanted[:2] if goes_up else ():
        found = _climb(object_, own, codes)
        if found is not None:
            return found
    return None


def find_keeper(tensor: Any, codes: FrameClassifier, frame: FrameType | None) -> Holder | None:
    """Return where the program keeps a tensor for later: an attribute, a container, a closure, a cache.

    The variables of running functions that name the tensor itself keep it no longer than the line that uses them.

    Args:
        tensor: The tensor.
        codes: The kinds of code.
        frame: The innermost frame to look at.
    """
    ids = {id(tensor)}
    holders = _search_program(ids, codes, frame, [], _MAX_ITEMS_OF_EXCEPTION)
    found = next((holder for holder in holders if not holder.name.isidentifier()), None)
    return found or _climb(tensor, {id(ids)}, codes, _MAX_CLIMBS_OF_EXCEPTION, _KEEPING)


def _search_program(
    ids: set[int], codes: FrameClassifier, frame: FrameType | None, roots: list[Any], items: int = _MAX_ITEMS
) -> Iterator[Holder]:
    frames = [f for f in walk_frames(frame or sys._getframe()) if codes.kind(f.f_code) == USER]
    for other in list_other_frames():
        frames += [f for f in walk_frames(other) if codes.kind(f.f_code) == USER and f not in frames]
    search = _Search(ids, items)
    for each in frames:
        if each.f_code.co_name == "<module>":
            continue
        variables = each.f_locals
        try:
            for name, value in copy_items(variables):
                found = search.run(value, name_self(name, value))
                if found is not None:
                    kind = "attribute" if "." in found.replace("...", "") else "local"
                    yield Holder(found, kind, each.f_code.co_filename, each.f_code.co_firstlineno, _name(each.f_code))
        finally:
            if sys.version_info < (3, 13) and each.f_code.co_flags & CO_OPTIMIZED:
                variables.clear()  # the snapshot lives as long as the frame; that of a class is the class's own
    known: set[int] = set()
    for each in frames:
        if id(each.f_globals) in known:
            continue
        known.add(id(each.f_globals))
        for name, value in copy_items(each.f_globals):
            if is_of_kind(value, ModuleType | type) or name.startswith("__"):
                continue
            found = search.run(value, name)
            if found is not None:
                yield Holder(found, "global", str(each.f_globals.get("__file__") or each.f_code.co_filename))
    files = {code.co_filename for code in list(codes.held.values()) if codes.kind(code) == USER}
    for module in list(sys.modules.values()):
        names = _read_dict(module)  # reading an attribute that a lazy module does not have may import another one
        if not isinstance(names, dict) or id(names) in known:
            continue
        if names.get("__name__") != "__main__" and names.get("__file__") not in files:
            continue
        for name, value in copy_items(names):
            if not is_of_kind(value, ModuleType | type) and not name.startswith("__"):
                found = search.run(value, name)
                if found is not None:
                    yield Holder(found, "global", str(names.get("__file__") or ""))
    for root in roots:
        found = search.run(root, type(root).__name__)
        if found is not None:
            yield Holder(found, "attribute")


def name_self(name: str, value: Any) -> str:
    """Return the name of a variable, for ``self`` that of its class."""
    return type(value).__name__ if name in ("self", "cls") else name


def _name(code: CodeType) -> str:
    return getattr(code, "co_qualname", code.co_name)


class _Search:
    """A search for objects among the members of others, the nearest first."""

    def __init__(self, ids: set[int], items: int) -> None:
        self._ids = ids
        self._seen: set[int] = set()
        self._left, self._most = items, items // _SHARE_OF_VARIABLE

    def run(self, value: Any, name: str) -> str | None:
        """Return the expression that leads from ``value``, called ``name``, to one of the objects."""
        waiting = deque([(value, name, 0)])
        last = max(self._left - self._most, 0)
        while waiting and self._left > last:
            self._left -= 1
            current, path, depth = waiting.popleft()
            if id(current) in self._ids:
                return path
            if depth == _MAX_DEPTH or id(current) in self._seen or not may_contain(current):
                continue
            self._seen.add(id(current))
            waiting.extend((member, path + step, depth + 1) for step, member in list_members(current))
        return None


def may_contain(value: Any) -> bool:
    """Return whether an object may have members that are worth a look."""
    if is_of_kind(value, str | bytes | int | float | complex | bool | torch.Tensor | type | ModuleType | None):
        return False
    return not type(value).__module__.startswith(("torch._C", "numpy"))


def is_of_kind(value: Any, kinds: Any) -> bool:
    """Return whether a value is of one of some types, without asking for its ``__class__``, as ``isinstance`` may."""
    return issubclass(type(value), kinds)


def copy_items(mapping: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """Return the items of a dictionary that a finalizer or another thread may change meanwhile."""
    if not is_of_kind(mapping, dict):
        return list(dict(mapping).items())
    return _copy(dict.items, mapping)


def _copy(read: Callable[[Any], Iterable[Any]], container: Any) -> list[Any]:
    """Return what ``read``, a method of a built-in type, finds in a container.

    A subclass of the program may compute its items only when it is asked for them, as by ``dict(container)``. What changes
    while it is read, be it because the list's own memory begins a collection, is read again.
    """
    for _ in range(_MAX_READS):
        try:
            return list(read(container))
        except RuntimeError:
            continue
    return []


def list_members(value: Any) -> list[tuple[str, Any]]:
    """Return the members of an object, each after the step that leads to it, such as ``.name`` or ``['key']``."""
    if is_of_kind(value, dict):
        return [(f"[{key!r}]" if is_of_kind(key, str) else "[...]", item) for key, item in copy_items(value)]
    for kind, read in _READ_BY_KIND.items():
        if is_of_kind(value, kind):
            return [("[...]", item) for item in _copy(read, value)[-_MAX_MEMBERS:]]
    if is_of_kind(value, FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=False)
        members = [(f".{name}", cell.cell_contents) for name, cell in cells if _is_filled(cell)]
        defaults = value.__defaults__ or ()
        names = value.__code__.co_varnames[: value.__code__.co_argcount][-len(defaults) :] if defaults else ()
        members += [(f".{name}", default) for name, default in zip(names, defaults, strict=False)]
        wrapped = getattr(value, "__wrapped__", None)
        return members if wrapped is None else [*members, ("", wrapped)]
    if is_of_kind(value, MethodType):
        return [("", value.__self__)]
    if is_of_kind(value, BaseException):
        return [*_list_attributes(value), *_list_traceback(value.__traceback__)]
    return _list_attributes(value)


def _list_attributes(value: Any) -> list[tuple[str, Any]]:
    members: list[tuple[str, Any]] = []
    attributes = _read_dict(value)
    if isinstance(attributes, dict):
        for name, item in copy_items(attributes):
            if name in ("_modules", "_parameters", "_buffers") and is_of_kind(item, dict):
                members += [(f".{key}", each) for key, each in copy_items(item)]
            else:
                members.append((f".{name}", item))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            descriptor = kind.__dict__.get(name)
            if isinstance(descriptor, MemberDescriptorType):
                try:
                    members.append((f".{name}", descriptor.__get__(value)))
                except AttributeError:  # not set
                    continue
    return members


def _read_dict(value: Any) -> Any:
    """Return the dictionary of an object, None if it has none, without calling any method of its own."""
    for kind in type(value).__mro__:
        if "__dict__" in kind.__dict__:
            descriptor = kind.__dict__["__dict__"]
            return descriptor.__get__(value) if isinstance(descriptor, _OF_DICT) else None
    return None


def _list_traceback(trace: TracebackType | None) -> list[tuple[str, Any]]:
    members = []
    while trace is not None:
        variables = trace.tb_frame.f_locals
        members += [(f" (traceback).{name}", value) for name, value in copy_items(variables)]
        trace = trace.tb_next
    return members


def _is_filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _climb(
    wanted: Any, own: set[int], codes: FrameClassifier, climbs: int = _MAX_CLIMBS, kinds: frozenset[str] = frozenset()
) -> Holder | None:
    """Return the named holder that is nearest along the referrers of an object, of one of some kinds if any are given."""
    level: list[tuple[Any, str]] = [(wanted, "")]
    seen = {id(level), id(wanted), *own}
    for _ in range(_MAX_LEVELS):
        following: list[tuple[Any, str]] = []
        seen.add(id(following))
        for value, path in level:
            climbs -= 1
            if climbs < 0:
                return None
            for referrer in gc.get_referrers(value)[:_MAX_REFERRERS]:
                if id(referrer) in seen or (is_of_kind(referrer, FrameType) and referrer is sys._getframe()):
                    continue
                seen.add(id(referrer))
                named = _name_root(referrer, value, path, codes)
                if named is not None:
                    if not kinds or named.kind in kinds:
                        return named
                elif not is_of_kind(referrer, FrameType | ModuleType):
                    following.append((referrer, _step(referrer, value) + path))
        level = following
    return None


def _step(container: Any, member: Any) -> str:
    if is_of_kind(container, dict):
        key = next((key for key, item in list(dict.items(container)) if item is member), None)
        return f".{key}" if type(key) is str and key.isidentifier() else "[...]"
    return "[...]" if is_of_kind(container, list | tuple | set | frozenset | deque) else ""


def _find_frame(referrer: Any) -> FrameType | None:
    """Return the frame whose variables a referrer has; a generator has no frame object until one is asked for."""
    frame: FrameType | None = None
    if is_of_kind(referrer, FrameType):
        frame = referrer
    elif is_of_kind(referrer, GeneratorType):
        frame = referrer.gi_frame
    elif is_of_kind(referrer, CoroutineType):
        frame = referrer.cr_frame
    elif is_of_kind(referrer, AsyncGeneratorType):
        frame = referrer.ag_frame
    return frame


def _name_root(referrer: Any, value: Any, path: str, codes: FrameClassifier) -> Holder | None:
    """Return the holder if ``referrer`` has a name of its own: a frame, a function, a generator, a module, an instance."""
    frame = _find_frame(referrer)
    if frame is not None:
        if codes.kind(frame.f_code) != USER:
            return None
        variables = frame.f_locals
        name = next((name for name, item in copy_items(variables) if item is value), "a variable")
        if sys.version_info < (3, 13):
            variables.clear()
        code = frame.f_code
        kind = "generator" if code.co_flags & _SUSPENDABLE else "local"
        return Holder(name + path, kind, code.co_filename, code.co_firstlineno, _name(code))
    if is_of_kind(referrer, FunctionType) and not referrer.__code__.co_filename.startswith((TORCH_DIR, GRADPROBE_DIR)):
        code = referrer.__code__
        return Holder(f"{referrer.__qualname__}{path}", "closure", code.co_filename, code.co_firstlineno, _name(code))
    if is_of_kind(referrer, TracebackType):
        code = referrer.tb_frame.f_code
        return Holder("a stored exception", "traceback", code.co_filename, referrer.tb_lineno, _name(code))
    if type(referrer).__name__ == "_lru_cache_wrapper":
        function: Callable[..., Any] = referrer.__wrapped__
        if is_of_kind(function, FunctionType):
            at = function.__code__
            return Holder(f"the cache of {_name(at)}", "cache", at.co_filename, at.co_firstlineno, _name(at))
    if is_of_kind(referrer, dict) and "__name__" in referrer and "__builtins__" in referrer:
        name = next((name for name, item in copy_items(referrer) if item is value), "")
        return Holder(name + path, "global", str(referrer.get("__file__") or ""))
    return None
