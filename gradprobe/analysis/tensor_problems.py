"""Problems of a tensor: the operations that will fail on it, PyTorch's error texts, and the fixes.

Pure functions from facts to problems. The error texts are those of PyTorch 2.13; the tests run each operation and compare.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gradprobe.recording.tensor_facts import INFERENCE, INFERENCE_COUNTED, NORMAL_UNCOUNTED, TensorFacts


class Problem(NamedTuple):
    """An operation that fails with a tensor; an item of ``gradprobe.inspect(tensor).problems``.

    Attributes:
        what (str): The operation that fails.
        error (str): The text of the error that PyTorch raises, as far as it does not depend on the operation.
        fix (str): The edit that avoids it, in one line.

    Example::

        with torch.inference_mode():
            x = torch.ones(2)
        for problem in gradprobe.inspect(x).problems:
            print(problem.what, problem.fix, sep=": ")
    """

    what: str
    error: str
    fix: str


def find_problems(facts: TensorFacts) -> list[Problem]:
    """Return what will fail with a tensor of these facts, the most far-reaching problem first."""
    return [
        *_find_kind_problems(facts),
        *_find_history_problems(facts),
        *_find_in_place_problems(facts),
        *_find_trait_problems(facts),
    ]


def explain_missing_version(facts: TensorFacts) -> str | None:
    """Return why a tensor has no version counter, or None if it has one."""
    if facts.version is not None:
        return None
    if facts.is_inference:
        return "it was created in inference mode, where tensors get no version counter"
    return (
        "it was created in inference mode, and giving it the data of a normal tensor does not give it a version counter"
    )


_NO_COUNTER = "Inference tensors do not track version counter."
_INFERENCE_IN_PLACE = (
    "Inplace update to inference tensor outside InferenceMode is not allowed."
    "You can make a clone to get a normal tensor before doing inplace update."
    "See https://github.com/pytorch/rfcs/pull/17 for more details."
)
_INFERENCE_SAVED = (
    "Inference tensors cannot be saved for backward. Please do not use Tensors created in inference mode in computation "
    "tracked by autograd. To work around this, you can make a clone to get a normal tensor and use it in autograd, or use "
    "`torch.no_grad()` instead of `torch.inference_mode()`."
)
_INFERENCE_REQUIRES_GRAD = "Setting requires_grad=True on inference tensor outside InferenceMode is not allowed."
_NO_HISTORY = "element 0 of tensors does not require grad and does not have a grad_fn"
_SAVED = "an operation that saves it for backward, such as multiplying it by a tensor that requires grad"
_CLONE = "outside inference mode, use t.clone(); or create it under torch.no_grad() instead"
_NEW_DATA = "outside inference mode, assign t.data = t.data.clone(); call .to() and assign .data outside it as well"
_FRESH = "use t.data.clone(), wrapped in torch.nn.Parameter(...) for a parameter; create it outside inference mode"


def _find_kind_problems(facts: TensorFacts) -> Iterator[Problem]:
    if not facts.is_plain:
        return
    if facts.kind == INFERENCE:
        yield Problem("an in-place operation under no_grad, outside inference mode", _INFERENCE_IN_PLACE, _CLONE)
        yield Problem(_SAVED, _INFERENCE_SAVED, _CLONE)
        if not facts.requires_grad and facts.can_require_grad:
            yield Problem("requires_grad_() outside inference mode", _INFERENCE_REQUIRES_GRAD, _CLONE)
        yield Problem("reading its _version", _NO_COUNTER, _CLONE)
    elif facts.kind == INFERENCE_COUNTED:
        yield Problem(_SAVED, _INFERENCE_SAVED, _NEW_DATA)
    elif facts.kind == NORMAL_UNCOUNTED:
        yield Problem(_SAVED, _NO_COUNTER, _FRESH)
        yield Problem("an in-place operation under no_grad, outside inference mode", _INFERENCE_IN_PLACE, _FRESH)
        yield Problem("reading its _version", _NO_COUNTER, _FRESH)
    if facts.is_inference and facts.requires_grad:
        fix = _CLONE if facts.kind == INFERENCE else _NEW_DATA
        yield Problem(
            "backward() from an operation on it alone, such as t.sum(): no node is recorded", _NO_HISTORY, fix
        )


_FREED = (
    "Trying to backward through the graph a second time (or directly access saved tensors after they have already been "
    "freed). Saved intermediate values of the graph are freed when you call .backward() or autograd.grad(). Specify "
    "retain_graph=True if you need to backward through the graph a second time or if you need to access saved tensors "
    "after calling backward."
)


def _find_history_problems(facts: TensorFacts) -> Iterator[Problem]:
    if facts.history_error is not None:
        yield Problem(
            "reading its grad_fn, and every operation on it that autograd records",
            facts.history_error,
            "create the view and modify its base in place under the same mode, or create the view again",
        )
    if facts.freed:
        yield Problem(
            "backward() through its graph, which an earlier backward pass has freed",
            _FREED,
            "compute it again before each backward(), or call the first one with retain_graph=True",
        )


_LEAF = "a leaf Variable that requires grad is being used in an in-place operation."
_VIEW_OF_LEAF = "a view of a leaf Variable that requires grad is being used in an in-place operation."
_AMBIGUOUS = (
    " Given that this use case is ambiguous and error-prone, it is forbidden. You can clarify your code by moving both the "
    "view and the inplace either both inside the {mode} block (if you don't want the inplace to be tracked) or both "
    "outside (if you want the inplace to be tracked)."
)
_SEVERAL_OUTPUTS = (
    " This view is the output of a function that returns multiple views. Such functions do not allow the output views to "
    "be modified inplace. You should replace the inplace operation by an out-of-place one."
)
_CUSTOM = (
    " This view was created inside a custom Function (or because an input was returned as-is) and the autograd logic to "
    "handle view+inplace would override the custom backward associated with the custom Function, leading to incorrect "
    "gradients. This behavior is forbidden. You can fix this by cloning the output of the custom Function."
)
_UNDER_NO_GRAD = "A view was created in no_grad mode and is being modified inplace with grad mode enabled."
_UNDER_INFERENCE = "A view was created in inference mode and is being modified inplace in normal mode."
_OVERLAP = (
    "unsupported operation: more than one element of the written-to tensor refers to a single memory location. "
    "Please clone() the tensor before performing the operation."
)


def _find_in_place_problems(facts: TensorFacts) -> Iterator[Problem]:
    """Yield what in-place operations run into: leaves, views, overlapping memory."""
    what = "an in-place operation with grad enabled"
    refused = _explain_refused_view(facts)
    if refused is not None and facts.history_error is None:
        if not facts.requires_grad:
            what += " and an operand that requires grad"
        yield Problem(what, *refused)
    elif facts.requires_grad:
        fix = "modify it under torch.no_grad(), or use the result of the out-of-place operation"
        if facts.is_view and facts.is_base_leaf:
            yield Problem(what, _VIEW_OF_LEAF, fix)
        elif facts.is_leaf:
            yield Problem(what, _LEAF, fix)
    if "overlapping" in facts.traits and facts.is_plain:
        yield Problem(
            "in-place arithmetic: several of its elements share one memory location",
            _OVERLAP,
            "use t.clone(), which has separate memory for each element",
        )


def _explain_refused_view(facts: TensorFacts) -> tuple[str, str] | None:
    """Return the error and the fix for a view that autograd does not let be modified in place, or None."""
    if not facts.is_view or facts.creation_meta == "DEFAULT":
        return None
    if facts.creation_meta == "NO_GRAD_MODE":
        error = _UNDER_NO_GRAD + _AMBIGUOUS.format(mode="no_grad")
        return error, "create the view with grad enabled, or modify it under torch.no_grad() as well"
    if facts.creation_meta == "INFERENCE_MODE":
        error = _UNDER_INFERENCE + _AMBIGUOUS.format(mode="inference_mode")
        return error, "create the view outside inference mode, or modify it under torch.no_grad()"
    made_by = _UNDER_NO_GRAD
    if facts.grad_fn is not None:
        name = facts.grad_fn.removesuffix("Backward0").removesuffix("Backward")
        made_by = f"Output {facts.output_number} of {name} is a view and is being modified inplace."
    if facts.creation_meta == "IN_CUSTOM_FUNCTION":
        return made_by + _CUSTOM, "return a clone from the custom Function, or use t.clone()"
    return (
        made_by + _SEVERAL_OUTPUTS,
        "take the part by indexing (t[0]) instead of unbind or split, or use an out-of-place operation",
    )


def _find_trait_problems(facts: TensorFacts) -> Iterator[Problem]:
    traits, layout = facts.traits, facts.layout
    if "meta" in traits and facts.is_plain:
        yield Problem(
            "copying its data, as .to('cpu') does",
            "Cannot copy out of meta tensor; no data!",
            "allocate memory with torch.empty_like(t, device='cpu') (for a module: to_empty) and fill it",
        )
    if "sparse" in traits and not traits & {"fake", "wrapper"}:
        name = "Sparse" if layout == "sparse_coo" else "".join(part.capitalize() for part in layout.split("_"))
        if not facts.requires_grad:
            error = f"can't convert {name} layout tensor to numpy. Use Tensor.to_dense() first."
            yield Problem("numpy()", error, "convert it with t.to_dense()")
        inner = "SparseTensorImpl" if layout == "sparse_coo" else "SparseCsrTensorImpl"
        error = f"Cannot access storage of {inner}"
        yield Problem("untyped_storage()", error, "use the storages of its parts, such as t.values()")
    if "nested" in traits:
        yield Problem(
            "reading its shape",
            "Internal error: NestedTensorImpl doesn't support sizes. Please file an issue.",
            "use its parts (t.unbind()), or create it with layout=torch.jagged",
        )
    if "jagged" in traits or "fake" in traits:
        fix = "use t.values() and t.offsets()" if "jagged" in traits else "use a real tensor"
        yield Problem("numpy()", ".numpy() is not supported for tensor subclasses.", fix)
    if "opaque" in traits:
        yield Problem("untyped_storage()", "Cannot access storage of OpaqueTensorImpl", "convert it with t.to_dense()")
    if "quantized" in traits:
        error = "only Tensors of floating point dtype can require gradients"
        yield Problem("requires_grad_()", error, "train t.dequantize() instead")
    if "complex" in traits and facts.requires_grad and facts.is_plain and not facts.is_inference:
        yield Problem(
            "backward() from a complex result, such as t.sum()",
            f"grad can be implicitly created only for real scalar outputs but got torch.{facts.dtype}",
            "make the loss real, for example with .abs() or torch.view_as_real(t), or pass a gradient to backward()",
        )
    if "vmap" in traits:
        yield Problem(
            "reading a value, as t.sum().item() does, inside torch.vmap",
            "vmap: It looks like you're calling .item() on a Tensor. We don't support vmap over calling .item() on a "
            "Tensor, please try to rewrite what you're doing with other operations. If error is occurring somewhere inside "
            "PyTorch internals, please file a bug report.",
            "return it from the function and read it outside torch.vmap",
        )
    if "transform" in traits:
        yield Problem(
            "backward() inside a torch.func transform",
            "backward() called inside a functorch transform. This is not supported, please use functorch.grad or "
            "functorch.vjp instead or call backward() outside of functorch transforms.",
            "use torch.func.grad or torch.func.vjp, or call backward() outside the transform",
        )
