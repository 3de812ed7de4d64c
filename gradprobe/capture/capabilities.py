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

REQUIRED_FOR_OPS: Final = (
    "torch.autograd._get_sequence_nr",
    "torch._C._current_graph_task_id",
    "torch._C._dispatch_has_kernel_for_dispatch_key",
    "torch._C._get_dispatch_stack_at",
    "torch._C._has_torch_function",
    "torch._C._is_torch_function_mode_enabled",
    "torch._C._len_torch_dispatch_stack",
    "torch._C._pop_torch_dispatch_stack",
    "torch._C._push_on_torch_dispatch_stack",
)
"""The names that level ops needs."""
OPTIONAL_TORCH_FEATURES: Final = {
    "torch.accelerator": "device time is not measured",
    "torch.Event": "device time is not measured",
    "torch.nn.Buffer": "inspect does not distinguish buffers from other tensors",
    "torch.utils._python_dispatch.is_in_any_mode_without_ignore_compile_internals": (
        "level ops makes torch.compile compile again; record compiled code at level graph"
    ),
    "torch.utils.swap_tensors": "nothing is missing: no tensors are swapped",
    "torch.compiler.is_dynamo_compiling": "is_compiling is used instead",
    "torch._C._autograd.SavedTensor.data": "saved_bytes and GP601 (modified saved tensors) are unavailable",
    "torch._C._dynamo.eval_frame._FrameExecStrategy": (
        "Dynamo is kept out by the mode's ignore_compile_internals() instead"
    ),
    "torch._C._functorch.peek_interpreter_stack": "nodes under torch.func may be attributed to no operator",
    "torch._C._increment_version": "version bumps by custom operators are not counted",
    "torch._C._is_cow_tensor": "copy-on-write storages are not distinguished from others",
    "torch._C._is_view_replay_enabled": "views are assumed to be recreated from their strides",
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


def recompiles_under_dispatch_mode() -> bool:
    """Return whether ``torch.compile`` compiles again under any dispatch mode, even a declared observer."""
    return not has_torch_name("torch.utils._python_dispatch.is_in_any_mode_without_ignore_compile_internals")


def missing_for_ops() -> list[str]:
    """Return the names that level ops needs and this PyTorch lacks."""
    return [name for name in REQUIRED_FOR_OPS if not has_torch_name(name)]


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
    missing = missing_for_ops()
    found.append(("level ops", not missing, f"needs {', '.join(missing)}" if missing else "operators are observed"))
    found.append(("native core", *core_status()))
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
