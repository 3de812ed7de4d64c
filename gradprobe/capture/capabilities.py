"""Features of PyTorch and Python that gradprobe builds on, and the consequences of missing ones."""

from __future__ import annotations

import functools
import threading
from types import CodeType
from typing import Final

import torch

from gradprobe.capture.autograd.node_counter import find_node_counter
from gradprobe.capture.compile.dynamo import can_observe_calls
from gradprobe.capture.modes.manager_hooks import KNOWN_METHODS, is_known_method
from gradprobe.capture.ops.native.loader import core_status

OPTIONAL_TORCH_FEATURES: Final = {
    "torch.accelerator": "device time is not measured",
    "torch.Event": "device time is not measured",
    "torch.nn.Buffer": "inspect does not distinguish buffers from other tensors",
    "torch.utils.swap_tensors": "nothing is missing: no tensors are swapped",
    "torch.compiler.is_dynamo_compiling": "is_compiling is used instead",
    "torch._C._increment_version": "version bumps by custom operators are not counted",
    "torch._C._is_cow_tensor": "copy-on-write storages are not distinguished from others",
    "torch._C._profiler._RecordFunctionFast": "blocks are not shown as ranges in torch.profiler's trace",
    "torch._C._valgrind_supported_platform": "instructions are not counted",
}
"""Optional names in PyTorch, with the consequence if one is missing."""
PYTHON_FEATURES: Final = {
    "code.co_qualname": (hasattr(CodeType, "co_qualname"), "functions are named without their class"),
    "code.co_positions": (hasattr(CodeType, "co_positions"), "expressions are identified by their line only"),
    "BaseException.add_note": (hasattr(BaseException, "add_note"), "exceptions are explained in the recording only"),
}
"""Optional names in Python: whether this one has them, and the consequence if not."""


def has_torch_name(name: str) -> bool:
    """Return whether this PyTorch has the object with the dotted ``name``."""
    try:
        functools.reduce(getattr, name.split(".")[1:], torch)
    except AttributeError:
        return False
    return True


def list_capabilities() -> list[tuple[str, bool, str]]:
    """Return the features that a recording builds on: name, availability, and consequence."""
    found = [
        (
            f"torch.{owner.__name__}.{name}",
            is_known_method(owner, name),
            "reimplemented" if is_known_method(owner, name) else "wrapped (slower)",
        )
        for owner, name in KNOWN_METHODS
    ]
    found.append(("level ops", *core_status()))
    counts = find_node_counter() is not None
    found.append(("autograd node counter", counts, "nodes are counted" if counts else "nodes are not counted"))
    threads = hasattr(threading.Thread, "_bootstrap_inner")
    found.append(("thread start", threads, "threads are distinguished" if threads else "threads may be mixed up"))
    calls = can_observe_calls()
    found.append(("calls of compiled code", calls, "counted" if calls else "not counted, only compilations are"))
    found += [
        (name, has_torch_name(name), "used" if has_torch_name(name) else consequence)
        for name, consequence in OPTIONAL_TORCH_FEATURES.items()
    ]
    found += [
        (name, is_available, "used" if is_available else consequence)
        for name, (is_available, consequence) in PYTHON_FEATURES.items()
    ]
    cuda = torch.cuda.is_available()
    found.append(("CUDA device", cuda, torch.cuda.get_device_name(0) if cuda else "device time is not measured"))
    return found
