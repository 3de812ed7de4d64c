"""The optimizer that is about to step, found from the frames of the call.

PyTorch's hook for all optimizers would be seen by the program and by ``torch.compile``.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import NamedTuple

import torch

from gradprobe.capture.location.frames import read_local, walk_frames

_FILE = sys.modules[torch.optim.Optimizer.__module__].__file__
_NAMES = ("self", "optimizer", "obj")
_MAX_FRAMES = 12


class Step(NamedTuple):
    """A call of an optimizer's ``step``. With a closure, the gradients are computed during the call."""

    optimizer: torch.optim.Optimizer
    has_closure: bool


def find_step(frame: FrameType | None) -> Step | None:
    """Return the call of an optimizer's ``step`` in ``frame`` or a frame around it."""
    for _, around in zip(range(_MAX_FRAMES), walk_frames(frame), strict=False):
        if around.f_code.co_filename != _FILE:
            continue
        for name in _NAMES:
            found = read_local(around, name) if name in around.f_code.co_varnames else None
            if isinstance(found, torch.optim.Optimizer):
                return Step(found, _has_closure(around))
    return None


def _has_closure(frame: FrameType) -> bool:
    given, named = (read_local(frame, name) for name in ("args", "kwargs"))
    return any(map(callable, (given or ())[1:])) or callable((named or {}).get("closure"))
