"""What a tensor of some kind does not allow: the operation, PyTorch's own words for it, and the way out.

Pure: from facts to problems. The error texts are those of PyTorch 2.13; the tests do each thing and compare.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

NORMAL = "normal"
INFERENCE = "inference"
INFERENCE_COUNTED = "inference with a version counter"
NORMAL_UNCOUNTED = "normal without a version counter"


class Problem(NamedTuple):
    """Something that will fail: what, the text of the error PyTorch raises, and what to do instead, in one line."""

    what: str
    error: str
    fix: str


@dataclass(frozen=True)
class TensorFacts:
    """What PyTorch says of a tensor; strings and numbers, nothing that keeps it alive.

    ``traits`` are the further kinds it belongs to: ``parameter``, ``buffer``, ``subclass``, ``wrapper``, ``fake``,
    ``meta``, ``sparse``, ``nested``, ``jagged``, ``quantized``, ``opaque``, ``complex``, ``empty``, ``overlapping``,
    ``part`` (of a larger storage), ``vmap``, ``transform``, ``dual``. ``made_as`` is how autograd says a tracked view came
    about, ``history_error`` what it says instead of ``grad_fn``.
    """

    is_inference: bool
    version: int | None
    requires_grad: bool
    is_leaf: bool
    traits: frozenset[str] = frozenset()
    layout: str = "strided"
    dtype: str = "float32"
    can_require_grad: bool = True
    is_view: bool = False
    made_as: str = "DEFAULT"
    is_base_leaf: bool = False
    grad_fn: str | None = None
    output_number: int = 0
    history_error: str | None = None
    freed: bool = False

    @property
    def kind(self) -> str:
        """One of four: whether it is an inference tensor and whether it has a version counter are two questions."""
        if self.is_inference:
            return INFERENCE if self.version is None else INFERENCE_COUNTED
        return NORMAL_UNCOUNTED if self.version is None else NORMAL

    @property
    def is_plain(self) -> bool:
        """Whether it holds its numbers itself, in the usual layout: what fails for others may fail otherwise."""
        special = {"sparse", "nested", "jagged", "quantized", "opaque", "wrapper", "fake", "vmap", "transform"}
        return not special & self.traits


def find_problems(facts: TensorFacts) -> list[Problem]:
    """What will fail with such a tensor, the most far-reaching first."""
    return [*_of_kind(facts), *_of_history(facts), *_of_place(facts), *_of_traits(facts)]


def explain_missing_version(facts: TensorFacts) -> str | None:
    """Why there is no version counter; None where there is one."""
    if facts.version is not None:
        return None
    if facts.is_inference:
        return "it was made in inference mode, where tensors get no version counter"
    return (
        "it was made in inference mode, and its data was replaced by that of a normal tensor, which brings no counter"
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
_CLONE = "outside of inference mode, go on with t.clone(); or make it under torch.no_grad() instead"
_NEW_DATA = "outside of inference mode, assign t.data = t.data.clone(); do .to() and .data = outside of it, too"
_FRESH = "go on with t.data.clone(), in torch.nn.Parameter(...) for a parameter; make it outside of inference mode"


def _of_kind(facts: TensorFacts) -> Iterator[Problem]:
    if not facts.is_plain:
        return
    if facts.kind == INFERENCE:
        yield Problem("an in-place operation under no_grad, outside of inference mode", _INFERENCE_IN_PLACE, _CLONE)
        yield Problem(_SAVED, _INFERENCE_SAVED, _CLONE)
        if not facts.requires_grad and facts.can_require_grad:
            yield Problem("requires_grad_() outside of inference mode", _INFERENCE_REQUIRES_GRAD, _CLONE)
        yield Problem("reading its _version", _NO_COUNTER, _CLONE)
    elif facts.kind == INFERENCE_COUNTED:
        yield Problem(_SAVED, _INFERENCE_SAVED, _NEW_DATA)
    elif facts.kind == NORMAL_UNCOUNTED:
        yield Problem(_SAVED, _NO_COUNTER, _FRESH)
        yield Problem("an in-place operation under no_grad, outside of inference mode", _INFERENCE_IN_PLACE, _FRESH)
        yield Problem("reading its _version", _NO_COUNTER, _FRESH)
    if facts.is_inference and facts.requires_grad:
        fix = _CLONE if facts.kind == INFERENCE else _NEW_DATA
        yield Problem("backward() from an operation on it alone, such as t.sum(): none is recorded", _NO_HISTORY, fix)


_FREED = (
    "Trying to backward through the graph a second time (or directly access saved tensors after they have already been "
    "freed). Saved intermediate values of the graph are freed when you call .backward() or autograd.grad(). Specify "
    "retain_graph=True if you need to backward through the graph a second time or if you need to access saved tensors "
    "after calling backward."
)


def _of_history(facts: TensorFacts) -> Iterator[Problem]:
    if facts.history_error is not None:
        yield Problem(
            "reading its grad_fn, and every operation on it that autograd records",
            facts.history_error,
            "make the view and change its base in place under the same mode, or go on with a view made anew",
        )
    if facts.freed:
        yield Problem(
            "backward() through its graph, which a backward has freed already",
            _FREED,
            "compute it anew before each backward(), or give the first one retain_graph=True",
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


def _of_place(facts: TensorFacts) -> Iterator[Problem]:
    """What changing it in place meets: leaves, views, memory that overlaps."""
    what = "an in-place operation with gradients on"
    refused = _refused_view(facts)
    if refused is not None and facts.history_error is None:
        if not facts.requires_grad:
            what += " and an operand that requires grad"
        yield Problem(what, *refused)
    elif facts.requires_grad:
        fix = "change it under torch.no_grad(), or go on with the result of the same operation out of place"
        if facts.is_view and facts.is_base_leaf:
            yield Problem(what, _VIEW_OF_LEAF, fix)
        elif facts.is_leaf:
            yield Problem(what, _LEAF, fix)
    if "overlapping" in facts.traits and facts.is_plain:
        yield Problem(
            "in-place arithmetic: several of its elements are one in memory",
            _OVERLAP,
            "go on with t.clone(), which has memory for each element",
        )


def _refused_view(facts: TensorFacts) -> tuple[str, str] | None:
    """The error and the fix for a view that autograd will not see changed in place."""
    if not facts.is_view or facts.made_as == "DEFAULT":
        return None
    if facts.made_as == "NO_GRAD_MODE":
        error = _UNDER_NO_GRAD + _AMBIGUOUS.format(mode="no_grad")
        return error, "make the view with gradients on, or change it under torch.no_grad(), too"
    if facts.made_as == "INFERENCE_MODE":
        error = _UNDER_INFERENCE + _AMBIGUOUS.format(mode="inference_mode")
        return error, "make the view outside of inference mode, or change it under torch.no_grad()"
    made_by = _UNDER_NO_GRAD
    if facts.grad_fn is not None:
        name = facts.grad_fn.removesuffix("Backward0").removesuffix("Backward")
        made_by = f"Output {facts.output_number} of {name} is a view and is being modified inplace."
    if facts.made_as == "IN_CUSTOM_FUNCTION":
        return made_by + _CUSTOM, "return a clone from the custom Function, or go on with t.clone()"
    return (
        made_by + _SEVERAL_OUTPUTS,
        "take the part by indexing (t[0]) instead of unbind or split, or work out of place",
    )


def _of_traits(facts: TensorFacts) -> Iterator[Problem]:
    traits, layout = facts.traits, facts.layout
    if "meta" in traits and facts.is_plain:
        yield Problem(
            "copying its numbers, as .to('cpu') does",
            "Cannot copy out of meta tensor; no data!",
            "make memory for it with torch.empty_like(t, device='cpu') (a module: to_empty) and fill that",
        )
    if "sparse" in traits and not traits & {"fake", "wrapper"}:
        name = "Sparse" if layout == "sparse_coo" else "".join(part.capitalize() for part in layout.split("_"))
        if not facts.requires_grad:
            error = f"can't convert {name} layout tensor to numpy. Use Tensor.to_dense() first."
            yield Problem("numpy()", error, "go through t.to_dense()")
        inner = "SparseTensorImpl" if layout == "sparse_coo" else "SparseCsrTensorImpl"
        error = f"Cannot access storage of {inner}"
        yield Problem("untyped_storage()", error, "ask its parts, such as t.values(), for their storages")
    if "nested" in traits:
        yield Problem(
            "reading its shape",
            "Internal error: NestedTensorImpl doesn't support sizes. Please file an issue.",
            "ask its parts (t.unbind()), or make it with layout=torch.jagged",
        )
    if "jagged" in traits or "fake" in traits:
        fix = "go on with t.values() and t.offsets()" if "jagged" in traits else "use the real tensor"
        yield Problem("numpy()", ".numpy() is not supported for tensor subclasses.", fix)
    if "opaque" in traits:
        yield Problem("untyped_storage()", "Cannot access storage of OpaqueTensorImpl", "go through t.to_dense()")
    if "quantized" in traits:
        error = "only Tensors of floating point dtype can require gradients"
        yield Problem("requires_grad_()", error, "train on t.dequantize()")
    if "complex" in traits and facts.requires_grad and facts.is_plain and not facts.is_inference:
        yield Problem(
            "backward() from a complex number, such as t.sum()",
            f"grad can be implicitly created only for real scalar outputs but got torch.{facts.dtype}",
            "make the loss real, for instance by .abs() or torch.view_as_real(t), or give backward() a gradient",
        )
    if "vmap" in traits:
        yield Problem(
            "reading a number, as t.sum().item() does, inside torch.vmap",
            "vmap: It looks like you're calling .item() on a Tensor. We don't support vmap over calling .item() on a "
            "Tensor, please try to rewrite what you're doing with other operations. If error is occurring somewhere inside "
            "PyTorch internals, please file a bug report.",
            "return it from the function and read it outside",
        )
    if "transform" in traits:
        yield Problem(
            "backward() inside a torch.func transform",
            "backward() called inside a functorch transform. This is not supported, please use functorch.grad or "
            "functorch.vjp instead or call backward() outside of functorch transforms.",
            "use torch.func.grad or vjp, or call backward() outside of the transform",
        )
