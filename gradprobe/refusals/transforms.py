"""Refusals of torch.func and of forward-mode differentiation."""

from __future__ import annotations

from gradprobe.refusals.refusal import Refusal

REFUSALS = (
    Refusal(
        "backward-in-transform",
        "GP641",
        (
            r"backward\(\) called inside a functorch transform",
            r"You are attempting to call Tensor\.(requires_grad_|retain_grad)\(\)",
            r"functorch functions .* incorrectly used with",
        ),
        "The function that torch.func transforms uses autograd's own interface, which works on other levels than the "
        "transform.",
        "Use torch.func's transforms inside as well (`torch.func.grad`, `vjp`, `jacrev`), or call backward() outside "
        "of the transform.",
        story="",
    ),
    Refusal(
        "modified-in-transform",
        "GP641",
        (
            r"During a grad .* transform, the function provided attempt(s|ed) to call in-place operation",
            r"vmap: inplace arithmetic\(self, \*extra_args\) is not possible",
            r"(accessing|mutating directly with) `\.?data` (under vmap|inside functorch) transform is not allowed",
            r"mutating directly with `\.data` inside functorch",
        ),
        "The function that torch.func transforms modifies a tensor in place that is not its own: the transform could "
        "not see the modification.",
        "Use the out-of-place operation, or pass the tensor to the function as an argument.",
        story="",
    ),
    Refusal(
        "value-in-transform",
        "GP641",
        (
            r"vmap: It looks like you're (calling|either|attempting)",
            r"vmap: We do not (yet )?support",
            r"vmap: called random operation while in randomness error mode",
            r"may have escaped from inside a function being vmapped",
            r"We do not support the case where any (inputs|outputs) are",
        ),
        "The function that torch.vmap vectorises needs the value of one sample, or uses an operator that has no "
        "vectorised form.",
        "Write it with tensor operations (`torch.where` in the place of `if`), and read values outside of vmap.",
        story="",
    ),
    Refusal(
        "function-in-transform",
        "GP641",
        (
            r"In order to use an autograd\.Function with functorch transforms",
            r"but it does not have vmap support",
            r"To use autograd\.Function with vmap",
            r"it has both generate_vmap_rule=True and an overridden vmap",
        ),
        "A custom Function is used under torch.func without the methods that this needs.",
        "Override `setup_context`, and set `generate_vmap_rule = True` or override `vmap`.",
        story="",
    ),
    Refusal(
        "transform-result",
        "GP641",
        (r"(grad_and_value|grad|vjp|jvp|jacfwd|jacrev|hessian|linearize)\(.*\).*: [Ee]xpected .* to (return|be)",),
        "The function that torch.func transforms returns something that has no gradient of this kind.",
        "Return one scalar tensor for `grad`; use `vjp` or `jacrev` for several elements, `has_aux=True` for further "
        "values.",
        story="",
    ),
    Refusal(
        "no-forward-level",
        "GP642",
        (
            r"Trying to create a dual Tensor for forward AD but no level exists",
            r"Trying to (exit|access) a forward AD level",
            r"Exiting a forward AD level that is not the last",
            r"Entering a new forward AD level but the current level is not valid",
            r"Nested forward mode AD is not supported",
        ),
        "A dual tensor is made or read outside of the level that it belongs to.",
        "Use it inside `with torch.autograd.forward_ad.dual_level():`, and close levels in the reverse order.",
        story="",
    ),
    Refusal(
        "no-forward-derivative",
        "GP642",
        (r"Trying to use forward AD with .* that does not support it", r"not differentiable wrt running_mean"),
        "A dual tensor reaches an operator that has no forward derivative.",
        "Use another operator, or backward-mode differentiation.",
        story="",
    ),
    Refusal(
        "forward-gradient-does-not-fit",
        "GP642",
        (
            r"Trying to set a forward gradient that has a different size",
            r"Making a dual Tensor based on a Tensor that already has a forward gradient",
            r"Only inplace operations can re-set the forward grad",
            r"Setting a forward grad that itself has a forward gradient",
            r"Expected (primal|tangent) to be floating point or complex",
            r"Expected both tensor and its forward grad to be floating point",
            r"Cannot set a (value of a )?forward grad",
            r"have the tangent have the same layout as primal",
        ),
        "A tangent is given that does not fit its primal, or the primal has one already.",
        "Give it the shape and a floating-point dtype of the primal, and make each dual tensor once.",
        story="",
    ),
)
