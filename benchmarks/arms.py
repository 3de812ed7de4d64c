"""Tools under which the benchmarks run a program: none, gradprobe's levels, and other observers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

NAMES = {
    "unwatched": "unwatched",
    "control": "unwatched again",
    "modes": "gradprobe, `modes`",
    "graph": "gradprobe, `graph`",
    "ops": "gradprobe, `ops`",
    "nothing": "a dispatch mode that does nothing",
    "profiler": "torch.profiler",
    "profiler, stacks": "torch.profiler, with stacks",
    "debug": "DebugMode",
    "debug, stacks": "DebugMode, with stacks",
}


@contextlib.contextmanager
def observed_by(arm: str) -> Iterator[None]:
    """Run the block under ``arm``, one of ``NAMES``."""
    if arm in ("unwatched", "control"):
        yield
        return
    with _make_tool(arm):
        yield


def _make_tool(arm: str) -> contextlib.AbstractContextManager[Any]:
    import torch
    from torch.utils._debug_mode import DebugMode
    from torch.utils._python_dispatch import TorchDispatchMode

    from gradprobe.recorder import Recorder

    class Nothing(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    if arm == "nothing":
        return Nothing()
    if arm.startswith("profiler"):
        cpu = torch.profiler.ProfilerActivity.CPU
        return torch.profiler.profile(activities=[cpu], with_stack="stacks" in arm)
    if arm.startswith("debug"):
        return DebugMode(record_stack_trace="stacks" in arm)
    return Recorder(level=arm)
