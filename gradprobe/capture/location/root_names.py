"""Names of outermost modules, no two of which exist at once under one name."""

from __future__ import annotations

import itertools
import weakref
from types import CodeType, FrameType, ModuleType
from typing import Any, NamedTuple

from gradprobe.capture.location.expressions import names_at
from gradprobe.capture.location.frames import forget_locals, walk_frames
from gradprobe.capture.location.holders import copy_items, is_of_kind, list_members
from gradprobe.recording.module_roots import NUMBER_MARK, ModuleRoot

_MAX_FRAMES = 8
"""Maximum number of functions around a call that are looked through."""
_MAX_SEARCHES = 32
"""Maximum number of modules for which they are: a program may call hundreds by the variable of one loop."""
MAX_MODULES = 64
"""Maximum number of modules of a class that are told apart; further ones have the name of the last of them."""


class _Slot(NamedTuple):
    module: weakref.ref[Any]
    root: ModuleRoot


class RootNames:
    """Names of the outermost modules of a process.

    A program may make a module in each iteration: one that follows another, which is gone, under the same variable has its
    name. So there are never more names than modules at once and variables.
    """

    def __init__(self) -> None:
        self._slots: dict[tuple[str, int], _Slot] = {}
        self._variables: dict[tuple[CodeType, int], str] = {}
        self._searches = 0

    def claim(self, module: Any, caller: FrameType | None) -> str:
        """Return the name of a module, which the line in ``caller`` has called."""
        kind = type(module).__name__.replace(".", "_").replace(NUMBER_MARK, "_")
        variable = self._find_variable(module, caller)
        if any(slot.root[1:3] == (kind, variable) and slot.module() is not None for slot in list(self._slots.values())):
            self._name_apart(kind, variable, caller)
            variable = self._search(module, caller, variable)
        for number in range(1, MAX_MODULES + 1):
            key = (kind, number)
            known = self._slots.get(key)
            if known is not None and (known.module() is not None or known.root.variable != variable):
                continue
            if known is not None and self._slots.pop(key, None) is not known:
                continue  # another thread has claimed it
            name = kind if number == 1 else f"{kind}{NUMBER_MARK}{number}"
            path = "" if known is None else known.root.path
            mine = _Slot(weakref.ref(module), ModuleRoot(name, kind, variable, path))
            if self._slots.setdefault(key, mine) is mine:
                return name
        return f"{kind}{NUMBER_MARK}{MAX_MODULES}"

    def _name_apart(self, kind: str, variable: str, caller: FrameType | None) -> None:
        """Look for better names of the modules that are called by one variable, such as a parameter of a function."""
        for key, slot in list(self._slots.items()):
            module = slot.module()
            if module is None or slot.root[1:3] != (kind, variable):
                continue
            found = self._search(module, caller, variable)
            if found != variable and self._slots.get(key) is slot:
                self._slots[key] = slot._replace(root=slot.root._replace(variable=found))

    def _search(self, module: Any, caller: FrameType | None, variable: str) -> str:
        """Return a better name of a module than a variable, or the variable if none is found."""
        if self._searches >= _MAX_SEARCHES:
            return variable
        self._searches += 1
        return find_other_name(module, caller, variable) or variable

    def move(self, name: str, path: str) -> None:
        """Note that an outermost module has turned out to be part of another one, at a path in that."""
        for key, slot in list(self._slots.items()):
            if slot.root.name == name:
                self._slots[key] = slot._replace(root=slot.root._replace(path=path))

    def list_all(self) -> list[ModuleRoot]:
        """Return the records of all names so far."""
        return [slot.root for slot in list(self._slots.values())]

    def list_modules(self) -> list[tuple[str, Any]]:
        """Return the outermost modules that still exist and are not part of another one, with their names."""
        found = ((slot.root.name, slot.module()) for slot in list(self._slots.values()) if not slot.root.path)
        return [(name, module) for name, module in found if module is not None]

    def forget(self) -> None:
        """Forget all."""
        self._slots.clear()
        self._variables.clear()
        self._searches = 0

    def _find_variable(self, module: Any, caller: FrameType | None) -> str:
        """Return the last part of the expression by which a line calls a module, "" if it does not lead to it."""
        if caller is None:
            return ""
        at = (caller.f_code, caller.f_lasti)
        known = self._variables.get(at)
        if known is None:  # parsing the line takes longer than all the rest, and a line may call a new module each time
            found = next((name for name, value in names_at(caller, caller.f_lasti) if value is module), "")
            known = self._variables[at] = found.rpartition(".")[2]
            forget_locals([caller])
        return known


def find_other_name(module: Any, caller: FrameType | None, name: str) -> str:
    """Return another name than ``name`` that functions around a call, or attributes of their variables, have for a module.

    Example:
        >>> import torch
        >>> model = reference = torch.nn.Linear(1, 1)
        >>> find_other_name(reference, sys._getframe(), "model")
        'reference'
    """
    frames = list(itertools.islice(walk_frames(caller), _MAX_FRAMES))
    try:
        for frame in frames:
            variables = copy_items(frame.f_locals)
            for other, value in variables:
                if value is module and other != name:
                    return str(other)
            for _, value in variables:
                members = [] if is_of_kind(value, ModuleType | type) else list_members(value)
                found = (step.strip(".[]'") for step, member in members if member is module)
                attribute = next((step for step in found if step.isidentifier() and step != name), "")
                if attribute:
                    return attribute
    finally:
        forget_locals(frames)
    return ""
