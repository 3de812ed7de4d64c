"""Refusals of in-place operations: on saved tensors, leaves, views, and what shares memory with them."""

from __future__ import annotations

from gradprobe.refusals.refusal import ERROR, NOTE, Refusal

REFUSALS = (
    Refusal(
        "saved-modified",
        "GP601",
        (
            r"one of the variables needed for gradient computation has been modified by an inplace operation",
            r"outside of the 'allow_mutation_on_saved_tensors' context",
        ),
        "A tensor was modified in place after the forward pass had saved it for backward, so its gradient would be "
        "wrong.",
        "Use the out-of-place operation, such as `x = x + 1`, or give the forward pass a copy of what is modified later: "
        "`buffer.clone()`; if an optimizer made the modification, run the forward pass "
        "again after the step.",
        story="modified",
        caught=ERROR,
    ),
    Refusal(
        "view-of-several",
        "GP604",
        (r"This view is the output of a function that returns multiple views",),
        "One of several views that one operator returned, such as `unbind` or `split`, is modified in place. Autograd "
        "has one node for all of them, and cannot change the history of one.",
        "Take the part by indexing (`x[0]`), or use an out-of-place operation.",
        tensor="view",
        story="view",
    ),
    Refusal(
        "view-of-function",
        "GP604",
        (r"This view was created inside a custom Function",),
        "A view that a custom Function returned is modified in place. Autograd would replace the Function's backward "
        "by its own.",
        "Return `out.clone()` from the Function, or clone before the modification.",
        tensor="view",
        story="view",
    ),
    Refusal(
        "view-under-mode",
        "GP602",
        (r"created in (no_grad|inference) mode and (is being|its base)",),
        "A view that was created under no_grad or inference mode is modified in place with grad enabled: autograd "
        "cannot know whether the modification should be recorded.",
        "Create the view and modify it under the same mode.",
        tensor="view",
        story="view",
        caught=ERROR,
    ),
    Refusal(
        "view-modified",
        "GP604",
        (r"is a view (of a view )?and (is being|its base or another view of its base has been) modified inplace",),
        "A view is modified in place, or used after its base was, where autograd does not allow it.",
        "Clone the view before the modification, or use an out-of-place operation.",
        tensor="view",
        story="view",
    ),
    Refusal(
        "leaf-modified",
        "GP603",
        (
            r"a (view of a )?leaf Variable that requires grad (is being|has been) used in an in-place operation",
            r"leaf variable has been moved into the graph interior",
        ),
        "A leaf that requires grad, or a view of one, is modified in place with grad enabled. It would become the "
        "result of an operator and not receive a gradient any more.",
        "Update it under `torch.no_grad()`; if the operation belongs to the model, use its out-of-place form.",
        tensor="leaf",
    ),
    Refusal(
        "view-detached",
        "GP604",
        (r"Can't detach views in-place",),
        "`detach_()` is called on a view, whose history belongs to its base.",
        "Use `x = x.detach()`. For gradients that are views of DDP's buckets, use `zero_grad(set_to_none=True)`.",
        tensor="view",
        story="view",
    ),
    Refusal(
        "saved-detached",
        "GP604",
        (r"Trying to use a saved tensor that has been detached in-place",),
        "A tensor that a node saved was detached in place by `detach_()`, so the history that its backward needs is "
        "gone.",
        "Use `x.detach()`, which leaves the tensor itself in the graph.",
        story="root",
    ),
    Refusal(
        "memory-shared",
        "GP604",
        (
            r"more than one element of the written-to tensor refers to a single memory location",
            r"some elements of the input tensor and the written-to tensor refer to a single memory location",
        ),
        "A view in which several elements share one memory location, as `expand` makes it, is modified in place.",
        "Clone it before the modification.",
        tensor="view",
        story="view",
    ),
    Refusal(
        "data-resized",
        "GP605",
        (r"is not allowed on a Tensor created from \.data or \.detach\(\)",),
        "Size, stride or storage of a tensor from `.data` or `.detach()` is changed, which the tensor it shares "
        "memory with would not notice.",
        "Change the tensor itself under `torch.no_grad()`, or clone first.",
        needs="an extension in C++: PyTorch's own operators allow it",
    ),
    Refusal(
        "data-replaced",
        "GP605",
        (
            r"Attempted to call `variable\.set_data\(tensor\)`",
            r"data set to a tensor that requires gradients must be floating point or complex dtype",
        ),
        "`.data` is set to a tensor of another kind, which the tensor's history and gradient would not fit.",
        "Create a new tensor (for a module: a new `torch.nn.Parameter`) from the new data.",
        tensor="grad",
    ),
    Refusal(
        "grad-resized",
        "GP605",
        (r"cannot resize variables that (require|has a forward) grad",),
        "A tensor that takes part in differentiation is resized in place.",
        "Create a new tensor, or resize under `torch.no_grad()` a tensor that does not require grad.",
        tensor="grad",
    ),
    Refusal(
        "out-argument",
        "GP605",
        (r"functions with out=\.\.\. arguments don't support automatic differentiation",),
        "An operator is to write into `out=` while one of its tensors requires grad: a result that is written has no "
        "history.",
        "Leave `out=` away and use the result, or run it under `torch.no_grad()`.",
        tensor="grad",
        caught=NOTE,
    ),
)
