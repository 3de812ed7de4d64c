"""What gradprobe finds in this PyTorch, and what it does where something is missing."""

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
"""Without any of these there is no level ops."""
OPTIONAL_TORCH_FEATURES: Final = {
    "torch.accelerator": "device time is not measured",
    "torch.Event": "device time is not measured",
    "torch.nn.Buffer": "buffers are not told from other tensors by inspect",
    "torch.utils._python_dispatch.is_in_any_mode_without_ignore_compile_internals": (
        "at level ops, what torch.compile made is compiled again; record it at level graph"
    ),
    "torch.utils.swap_tensors": "nothing to do: no tensors are swapped",
    "torch.compiler.is_dynamo_compiling": "told by is_compiling instead",
    "torch._C._autograd.SavedTensor.data": "bytes saved for backward are not known, nor what a change in place spoilt",
    "torch._C._dynamo.eval_frame._FrameExecStrategy": "compiling keeps out of the mode by what the mode says of itself",
    "torch._C._functorch.peek_interpreter_stack": "nodes under torch.func may be charged to no operator",
    "torch._C._increment_version": "versions that custom operators put up are not counted",
    "torch._C._is_cow_tensor": "copy-on-write storages are not told from others",
    "torch._C._is_view_replay_enabled": "views are taken to be made anew from their strides",
    "torch._C._profiler._RecordFunctionFast": "blocks are not ranges in torch.profiler's trace",
    "torch._C._valgrind_supported_platform": "instructions are not counted",
}
"""What is used where it is there, and what follows where it is not."""
PYTHON_FEATURES: Final = {
    "code.co_qualname": (hasattr(CodeType, "co_qualname"), "functions are named without their class"),
    "code.co_positions": (hasattr(CodeType, "co_positions"), "expressions are told by their line alone"),
    "BaseException.add_note": (hasattr(BaseException, "add_note"), "exceptions are explained in the recording alone"),
}
"""The same of Python, with whether it is there."""


def has_torch_name(name: str) -> bool:
    """Whether this PyTorch has what the dotted ``name`` stands for."""
    try:
        functools.reduce(getattr, name.split(".")[1:], torch)
    except AttributeError:
        return False
    return True


def recompiles_under_dispatch_mode() -> bool:
    """Whether a graph of ``torch.compile`` does not do under a dispatch mode, whatever the mode says of itself."""
    return not has_torch_name("torch.utils._python_dispatch.is_in_any_mode_without_ignore_compile_internals")


def missing_for_ops() -> list[str]:
    """What level ops needs and this PyTorch lacks."""
    return [name for name in REQUIRED_FOR_OPS if not has_torch_name(name)]


def list_capabilities() -> list[tuple[str, bool, str]]:
    """For each thing that a recording builds on: its name, whether it is there, and what follows."""
    found = [
        (
            f"torch.{owner.__name__}.{name}",
            is_known_method(owner, name),
            "done over" if is_known_method(owner, name) else "called through, which costs more",
        )
        for owner, name in KNOWN_METHODS
    ]
    missing = missing_for_ops()
    found.append(("level ops", not missing, f"needs {', '.join(missing)}" if missing else "operators are watched"))
    found.append(("native core", *core_status()))
    counts = find_node_counter() is not None
    found.append(("autograd node counter", counts, "nodes are counted" if counts else "nodes are not counted"))
    threads = hasattr(threading.Thread, "_bootstrap_inner")
    found.append(("thread start", threads, "threads are told apart" if threads else "threads may be mixed up"))
    calls = can_observe_calls()
    found.append(("calls of compiled code", calls, "are counted" if calls else "are not counted, only compilations"))
    found += [
        (name, has_torch_name(name), "used" if has_torch_name(name) else without)
        for name, without in OPTIONAL_TORCH_FEATURES.items()
    ]
    found += [(name, there, "used" if there else without) for name, (there, without) in PYTHON_FEATURES.items()]
    cuda = torch.cuda.is_available()
    found.append(("CUDA device", cuda, torch.cuda.get_device_name(0) if cuda else "device time is not measured"))
    return found
