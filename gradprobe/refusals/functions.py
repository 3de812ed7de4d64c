"""Refusals of custom Functions and of hooks that break their contract."""

from __future__ import annotations

from gradprobe.refusals.refusal import Refusal

_FUNCTION = "Correct the Function: see https://pytorch.org/docs/stable/notes/extending.html."

REFUSALS = (
    Refusal(
        "number-of-gradients",
        "GP631",
        (
            r"returned an incorrect number of gradients",
            r"returned a gradient different (than None|that is defined) at position",
            r"expected Variable or None \(got",
            r"Expected the return from backward to be of the same structure as the inputs",
            r"backward\(\) returns an incorrect number of values",
        ),
        "The backward of a custom Function returns something else than one gradient for each argument of its forward.",
        "Return one value for each argument of `forward`, None for those that are not tensors or need no gradient.",
        story="node",
    ),
    Refusal(
        "gradient-shape",
        "GP631",
        (r"returned an invalid gradient at index", r"Found dtype \w+ but expected \w+"),
        "The backward of a node returns a gradient that does not fit the tensor which the forward took.",
        "Return a gradient with the shape, dtype and device of the argument: sum over dimensions that the forward "
        "broadcast. Among PyTorch's own nodes the reason is often that the tensor's `.data` was replaced after the "
        "forward pass.",
        story="node",
    ),
    Refusal(
        "context-misused",
        "GP631",
        (
            r"save_for_backward can only save variables",
            r"save_for_forward expects all arguments to be tensors",
            r"mark_dirty can only accept variables",
            r"mark_non_differentiable only accepts variable arguments",
            r"Some elements marked as dirty during the forward method were not returned",
            r"An input that has been returned as-is as output is being saved for backward",
            r"your Function modifies inplace an input that is a view of another Tensor",
            r"Pure view custom Function can only have one input Tensor",
        ),
        "The forward of a custom Function uses its context in a way that autograd cannot follow.",
        "Save tensors by `ctx.save_for_backward` and other values as attributes of `ctx`; return every tensor that is "
        "marked dirty.",
        story="",
    ),
    Refusal(
        "function-incomplete",
        "GP631",
        (
            r"You must implement (either the backward or vjp method|the forward function|the jvp function)",
            r"Implementing both 'backward' and 'vjp' for a custom Function is not allowed",
            r"Legacy autograd function with non-static forward method",
            r"setup_context is not implemented",
            r"is a legacy access pattern that is no longer supported",
        ),
        "A custom Function lacks a method that this use of it needs.",
        _FUNCTION,
        story="",
    ),
    Refusal(
        "forward-gradient-of-function",
        "GP631",
        (
            r"Function's jvp returned",
            r"An inplace custom Function is not (modifying|returning) the forward mode gradients",
        ),
        "The jvp of a custom Function returns something else than one forward gradient for each output.",
        _FUNCTION,
        story="",
    ),
    Refusal(
        "hook-result",
        "GP631",
        (
            r"hook '.*' has changed the (type|size) of value",
            r"expected Variable, but hook returned",
            r"can't replace a(n empty| None) gradient with a non-(empty|None) value",
            r"post accumulate grad hooks should return None",
            r"Module backward hook for grad_input is called before",
            r"Cannot use both regular backward hooks and full backward hooks",
            r"Final callbacks can only be installed during backward pass",
        ),
        "A hook on gradients returns something that cannot take the gradient's place, or is registered where it "
        "cannot be.",
        "Return None or a tensor of the same shape and type from the hook.",
        story="",
    ),
    Refusal(
        "saved-tensor-hook",
        "GP631",
        (
            r"saved tensor (pack|unpack)[_ ]hook",
            r"whose hooks have already been set",
            r"support saved tensor hooks",
            r"allow_mutation_on_saved_tensors contexts cannot be nested",
            r"Tensor is a Python object|Output of saved tensor unpack_hook expected to be a Tensor",
        ),
        "A hook on saved tensors modifies what it is given, returns something else than a tensor, or is used where "
        "hooks are not supported.",
        "Return a new object from the pack hook and a tensor of the same shape from the unpack hook.",
        story="",
    ),
)
