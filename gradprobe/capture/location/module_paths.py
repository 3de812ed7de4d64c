"""Which module an operator ran in, found from the frames of the call: hooks on modules would switch fast paths off."""

from __future__ import annotations

import sys
import weakref
from types import CodeType, FrameType
from typing import Any

import torch

MODULE_CALL_CODE: CodeType = torch.nn.Module._wrapped_call_impl.__code__
"""What runs whenever a module is called. It has few local variables; the function that it calls has many to copy."""
_DEPTH = 30
_SNAPSHOTS = sys.version_info < (3, 13)


def called_module(frame: FrameType) -> Any:
    """The module that is called in ``frame``."""
    names = frame.f_locals
    module = names["self"]
    if _SNAPSHOTS:
        # The snapshot lives as long as the frame, and would keep alive what the frame lets go meanwhile.
        names.clear()
    return module


class ModulePaths:
    """Dotted paths of modules, counted from the outermost module whose call led to the first sight of each."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[weakref.ref[Any], str]] = {}
        """By the identity of a module."""

    def path(self, frame: FrameType) -> str:
        """The path of the module that is called in ``frame``; of the outermost its class in brackets."""
        module = called_module(frame)
        known = self.known.get(id(module))
        if known is not None and known[0]() is module:
            return known[1]
        self._learn(frame)
        known = self.known.get(id(module))
        if known is None or known[0]() is not module:  # one that its parents do not know as a child
            known = self.known[id(module)] = weakref.ref(module), f"({type(module).__name__})"
        return known[1]

    def path_above(self, frame: FrameType) -> str:
        """The path of the module that calls the program's line in ``frame``; empty if there is none within a few frames."""
        above = frame.f_back
        for _ in range(_DEPTH):
            if above is None:
                break
            if above.f_code is MODULE_CALL_CODE:
                return self.path(above)
            above = above.f_back
        return ""

    def roots(self) -> list[Any]:
        """The modules that were outermost in some call, and live."""
        found = (entry[0]() for entry in list(self.known.values()) if entry[1].startswith("("))
        return [module for module in found if module is not None]

    def forget(self) -> None:
        """The recording is over: the next one has outermost modules of its own."""
        self.known.clear()

    def _learn(self, frame: FrameType | None) -> None:
        root = None
        while frame is not None:
            if frame.f_code is MODULE_CALL_CODE:
                root = called_module(frame)
            frame = frame.f_back
        if root is not None:
            for name, module in root.named_modules():
                self.known[id(module)] = weakref.ref(module), name or f"({type(root).__name__})"
