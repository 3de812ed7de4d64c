"""Hooks on what raises autograd's exceptions: operators, the engine of backward passes, and methods of tensors.

They are C++ callables in the place of PyTorch's, so that the traceback of an exception stays as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
import torch.utils.checkpoint

from gradprobe.capture.detectors.exception_diagnosis import Operands
from gradprobe.capture.patching.patches import Patch

OnCall = Callable[[Exception, TracebackType | None, Operands], None]

_METHODS = (
    "numpy",
    "requires_grad_",
    "retain_grad",
    "register_hook",
    "register_post_accumulate_grad_hook",
    "apply_",
    "map_",
    "__deepcopy__",
    "__dlpack__",
    "__setstate__",
)
_EXPORTS = {"numpy": True, "__dlpack__": True, "data_ptr": True, "untyped_storage": True, "tolist": False}
"""Methods that give the values of a tensor to code beyond PyTorch, and whether they give its memory. ``__array__`` calls
``numpy``."""
GIVEN_BY_PYTORCH = ("data_ptr", "untyped_storage")
"""Methods that PyTorch's own Python calls for itself, as copies, pickles and views do, and then gives nothing away."""
_OF_REDUCER = ("prepare_for_forward", "prepare_for_backward", "_rebuild_buckets")
_ATTRIBUTES = ("data", "requires_grad", "grad")


def refusal_patches(
    library: Any,
    on_call: OnCall,
    on_export: Callable[..., None],
    on_registered: Callable[..., None],
    on_no_gradient: Callable[..., None],
    on_checkpoint: Callable[..., None],
) -> list[Patch]:
    """Return the patches that call ``on_call`` with exceptions that leave a method of a tensor or the engine.

    Args:
        library: The observer's library.
        on_call: Receives the exception, its traceback below the call, and the operands.
        on_export: Receives the name of each method that gave the values of a tensor to code beyond PyTorch, whether it
            gave the memory too, and the arguments.
        on_registered: Receives the arguments of each call that registered a hook on a tensor.
        on_no_gradient: Receives each tensor whose ``grad`` was read and is None, although an operator computed it and it
            requires grad.
        on_checkpoint: Receives the arguments of the function by which a reentrant checkpoint looks at its inputs.
    """
    on_method = functools.partial(_show_method, on_call)
    seen: dict[str, Callable[..., None]] = {
        name: functools.partial(on_export, name, is_shared) for name, is_shared in _EXPORTS.items()
    }
    seen["register_hook"] = on_registered
    methods = [
        Patch(
            torch.Tensor,
            name,
            library.show_errors_of_call(
                getattr(torch.Tensor, name),
                on_method,
                seen.get(name),
            ),
        )
        for name in (*_METHODS, *(_EXPORTS.keys() - set(_METHODS)))
        if hasattr(torch.Tensor, name)
    ]
    functions = [
        Patch(owner, name, library.show_errors_of_call(getattr(owner, name), on_method))
        for owner, name in _find_functions()
        if hasattr(owner, name)
    ]
    attributes = [
        Patch(
            torch.Tensor,
            name,
            library.show_errors_of_attribute(
                getattr(torch.Tensor, name), on_method, on_no_gradient if name == "grad" else None
            ),
        )
        for name in _ATTRIBUTES
    ]
    make_grads = library.show_errors_of_call(torch.autograd._make_grads, functools.partial(_show_make_grads, on_call))
    starts = [Patch(torch.autograd, "_make_grads", make_grads)]
    checked = getattr(torch.utils.checkpoint, "check_backward_validity", None)
    if checked is not None:
        shown = library.show_errors_of_call(checked, on_method, on_checkpoint)
        starts.append(Patch(torch.utils.checkpoint, "check_backward_validity", shown))
    engine = _engine_patches(library, functools.partial(_show_backward, on_call))
    return [*methods, *functions, *attributes, *starts, *engine]


def _find_functions() -> list[tuple[Any, str]]:
    """Return the functions beside those of tensors that raise autograd's exceptions in Python or C++, by owner and name."""
    found: list[tuple[Any, str]] = [
        (torch.optim.Optimizer, "add_param_group"),
        (torch.nn.Module, "register_parameter"),
    ]
    reducer = getattr(torch.distributed, "Reducer", None)
    return found if reducer is None else found + [(reducer, name) for name in _OF_REDUCER]


def _engine_patches(library: Any, on_error: Callable[..., None]) -> list[Patch]:
    """Return the patch for the engine, which is one object for all backward passes."""
    owner: Any = torch.autograd.Variable
    engine = getattr(owner, "_execution_engine", None)
    run = getattr(type(engine), "run_backward", None)
    if run is None:
        return []
    watched = type(type(engine).__name__, (type(engine),), {"run_backward": library.show_errors_of_call(run, on_error)})
    return [Patch(owner, "_execution_engine", watched())]


def _show_method(on_call: OnCall, error: Exception, trace: TracebackType | None, arguments: tuple[Any, ...]) -> None:
    on_call(error, trace, Operands(tensors=arguments))


def _show_make_grads(
    on_call: OnCall, error: Exception, trace: TracebackType | None, arguments: tuple[Any, ...]
) -> None:
    """Show an exception of ``_make_grads``, whose first argument are the roots."""
    on_call(error, trace, Operands(roots=[root for root in arguments[0] if isinstance(root, torch.Tensor)]))


def _show_backward(on_call: OnCall, error: Exception, trace: TracebackType | None, arguments: tuple[Any, ...]) -> None:
    """Show an exception of ``run_backward``, whose arguments are the engine, roots, gradients, two flags, and inputs."""
    roots = [root for root in arguments[1] if isinstance(root, torch.Tensor)] if len(arguments) > 1 else []
    inputs = list(arguments[5]) if len(arguments) > 5 and isinstance(arguments[5], tuple) else []
    on_call(error, trace, Operands(roots=roots, inputs=inputs))
