"""The optimizer that is about to step, found from the frames of the call.

PyTorch's hook for all optimizers would be seen by the program and by ``torch.compile``.
"""

from __future__ import annotations

import sys
from types import FrameType

import torch

from gradprobe.capture.location.frames import read_local, walk_frames

_FILE = sys.modules[torch.optim.Optimizer.__module__].__file__
_NAMES = ("self", "optimizer", "obj")
_MAX_FRAMES = 12


def find_stepping_optimizer(frame: FrameType | None) -> torch.optim.Optimizer | None:
    """Return the optimizer whose ``step`` is being called in ``frame`` or a frame around it."""
    for _, around in zip(range(_MAX_FRAMES), walk_frames(frame), strict=False):
        if around.f_code.co_filename != _FILE:
            continue
        for name in _NAMES:
            found = read_local(around, name) if name in around.f_code.co_varnames else None
            if isinstance(found, torch.optim.Optimizer):
                return found
    return None
