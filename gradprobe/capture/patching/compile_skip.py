"""Keep ``torch.compile`` out of gradprobe's functions, and find out whether it is tracing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

is_tracing: Callable[[], bool] = getattr(torch.compiler, "is_dynamo_compiling", torch.compiler.is_compiling)
"""Return whether ``torch.compile`` is tracing the calling code."""


def skip_when_compiling(*functions: Any) -> None:
    """Keep ``torch.compile`` from tracing into ``functions`` and into the functions that they call."""
    frames: Any = torch._C._dynamo.eval_frame
    try:
        skip = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.SKIP)
        for function in functions:
            frames.set_code_exec_strategy(function.__code__, skip)
    except AttributeError:  # another version of PyTorch; Dynamo then asks the mode's ignore_compile_internals()
        return
