"""Paths of the modules that operators run in, found from the frames of the call.

Hooks on modules would give the same answer, but PyTorch leaves its fast paths where a module has hooks.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

import torch

from gradprobe.capture.location.frames import MODULE_CALL_CODE, read_local, walk_frames
from gradprobe.capture.location.module_members import list_members
from gradprobe.capture.location.root_names import RootNames

_MAX_FRAMES_ABOVE = 30
"""Maximum number of frames between a module's call and the user's line that belongs to it."""


class _KnownModule(NamedTuple):
    module: weakref.ref[Any]
    path: str
    root: weakref.ref[Any]
    """The outermost module that the path begins with."""


class ModulePaths:
    """Dotted paths of modules, starting at the outermost module of the call that showed each first."""

    def __init__(self) -> None:
        self.known: dict[int, _KnownModule] = {}
        """Paths by the identity of the module."""
        self.roots = RootNames()
        self.on_change: Callable[..., object] = do_nothing
        """Called when a path has changed, and when a module is freed, before its identity may be another's."""

    def path(self, frame: FrameType) -> str:
        """Return the path of the module called in ``frame``, which begins with the name of an outermost module."""
        module = read_local(frame, "self")
        known = self._find(module)
        if known is None:
            self._learn(frame)
            known = self._find(module)
        return "" if known is None else known.path

    def path_above(self, frame: FrameType) -> str:
        """Return the path of the module that calls the user's line in ``frame``, or "" without one nearby."""
        above = frame.f_back
        for _ in range(_MAX_FRAMES_ABOVE):
            if above is None:
                break
            if above.f_code is MODULE_CALL_CODE:
                return self.path(above)
            above = above.f_back
        return ""

    def list_roots(self) -> list[Any]:
        """Return the modules that were outermost in some call and still exist."""
        return [module for _, module in self.roots.list_modules()]

    def forget(self) -> None:
        """Forget all paths at the end of a recording, since other modules may be outermost in the next one."""
        self.known.clear()
        self.roots.forget()
        self.on_change()

    def _find(self, module: Any) -> _KnownModule | None:
        known = self.known.get(id(module))
        return known if known is not None and known.module() is module else None

    def _learn(self, frame: FrameType) -> None:
        """Learn the paths of all modules in the outermost one of a call, and in those on the way that it does not list."""
        calls = [caller for caller in walk_frames(frame) if caller.f_code is MODULE_CALL_CODE]
        around: list[tuple[Any, _KnownModule]] = []
        for call in reversed(calls):
            module = read_local(call, "self")
            if module is None:
                continue
            known = self._find(module)
            if known is None and around and _is_made_for(module, around[-1][0]):
                known = self._add(module, f"{around[-1][1].path}.({type(module).__name__})", around[-1][1].root)
            if known is None and around:  # added to the outermost one since that was learned
                self._add_members(*around[0])
                known = self._find(module)
            if known is None:  # none of those around its call lists it
                known = self._add(module, self.roots.claim(module, call.f_back), weakref.ref(module))
                self._add_members(module, known)
            around.append((module, known))

    def _add_members(self, module: Any, known: _KnownModule) -> None:
        for step, member in list_members(module):
            if step and isinstance(member, torch.nn.Module):
                self._add_member(member, f"{known.path}.{step}", known)
        self.on_change()

    def _add_member(self, module: Any, path: str, root: _KnownModule) -> None:
        """Add a module in an outermost one; of those that are in several, the path in the first that still exists stays."""
        known = self._find(module)
        if known is not None and known.root is not root.root:
            if known.root() is module:
                self.roots.move(known.path, path)
            elif known.root() is not None and not self._is_within(known.root(), root):
                return
        self._add(module, path, root.root)

    def _is_within(self, module: Any, root: _KnownModule) -> bool:
        """Return whether a module that was outermost is known as part of another one by now."""
        known = self._find(module)
        return known is not None and known.root is root.root

    def _add(self, module: Any, path: str, root: weakref.ref[Any]) -> _KnownModule:
        known = self.known[id(module)] = _KnownModule(weakref.ref(module, self.on_change), path, root)
        return known


def _is_made_for(module: Any, caller: Any) -> bool:
    """Return whether a module that another one calls is no part of that and has no parameters, as an activation.

    A program may make one for each call, so no other module is looked through for it.
    """
    if any(child is module for child in vars(caller).get("_modules", {}).values()):
        return False
    return not any(isinstance(member, torch.Tensor) for _, member in list_members(module))


def do_nothing(*_: object) -> None:
    """Do nothing, since nobody else knows any path."""
