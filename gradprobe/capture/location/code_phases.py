"""Phases that the running code shows by itself: the import of a module, and the construction of a ``torch.nn.Module``."""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import Any

import torch

from gradprobe.capture.location.frames import read_local, walk_frames
from gradprobe.phases import CONSTRUCTION, IMPORT


def find_code_phase(code: CodeType | None, frame: FrameType | None) -> str:
    """Return the phase of what a line has created, as its code and the frames at the end of its block show it.

    Args:
        code: Code object of the line, which may have returned.
        frame: The innermost frame to look at.
    """
    if code is not None and code.co_name == "__init__" and _constructs_module(code):
        return CONSTRUCTION
    for each in walk_frames(frame):
        if each.f_code.co_name == "__init__" and isinstance(read_local(each, "self"), torch.nn.Module):
            return CONSTRUCTION
        if each.f_code.co_name == "<module>" and _is_imported(each.f_globals):
            return IMPORT
    return ""


def _constructs_module(code: CodeType) -> bool:
    """Return whether code is the constructor of a module's class, by its qualified name in the module of its file."""
    path = getattr(code, "co_qualname", "").split(".")[:-1]
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == code.co_filename:
            found: Any = module
            for name in path:
                found = vars(found).get(name) if hasattr(found, "__dict__") else None
            if isinstance(found, type) and issubclass(found, torch.nn.Module):
                return getattr(vars(found).get("__init__"), "__code__", None) is code
    return False


def _is_imported(variables: dict[str, Any]) -> bool:
    """Return whether the module with these global variables is being imported; the main program is not."""
    return bool(getattr(variables.get("__spec__"), "_initializing", False))
