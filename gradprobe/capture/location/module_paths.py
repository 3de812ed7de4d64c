"""Paths of the modules that operators run in, found from the frames of the call.

Hooks on modules would give the same answer, but PyTorch leaves its fast paths where a module has hooks.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

from gradprobe.capture.location.frames import MODULE_CALL_CODE, read_local, walk_frames

_MAX_FRAMES_ABOVE = 30
"""Maximum number of frames between a module's call and the user's line that belongs to it."""


class ModulePaths:
    """Dotted paths of modules, starting at the outermost module of the call that showed each first."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[weakref.ref[Any], str]] = {}
        """Paths by the identity of the module."""
        self.on_change: Callable[..., object] = do_nothing
        """Called when a path has changed, and when a module is freed, before its identity may be another's."""

    def path(self, frame: FrameType) -> str:
        """Return the path of the module called in ``frame``, of an outermost module its class in brackets."""
        module = read_local(frame, "self")
        known = self.known.get(id(module))
        if known is not None and known[0]() is module:
            return known[1]
        self._learn(frame)
        known = self.known.get(id(module))
        if known is None or known[0]() is not module:  # its parents do not list it as a child
            known = self._add(module, f"({type(module).__name__})")
        return known[1]

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

    def roots(self) -> list[Any]:
        """Return the modules that were outermost in some call and still exist."""
        found = (entry[0]() for entry in list(self.known.values()) if entry[1].startswith("("))
        return [module for module in found if module is not None]

    def forget(self) -> None:
        """Forget all paths at the end of a recording, since other modules may be outermost in the next one."""
        self.known.clear()
        self.on_change()

    def _learn(self, frame: FrameType | None) -> None:
        root = None
        for caller in walk_frames(frame):
            if caller.f_code is MODULE_CALL_CODE:
                root = read_local(caller, "self")
        if root is not None:
            for name, module in root.named_modules():
                self._add(module, name or f"({type(root).__name__})")
            self.on_change()

    def _add(self, module: Any, path: str) -> tuple[weakref.ref[Any], str]:
        known = self.known[id(module)] = weakref.ref(module, self.on_change), path
        return known


def do_nothing(*_: object) -> None:
    """Do nothing, since nobody else knows any path."""
