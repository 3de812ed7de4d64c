"""Refusals of what a tensor is: flags and hooks that it cannot have, ways out of autograd, places that need a leaf."""

from __future__ import annotations

from gradprobe.refusals.refusal import NOTE, Refusal

REFUSALS = (
    Refusal(
        "flag-of-result",
        "GP621",
        (r"you can only change requires_grad flags of leaf variables",),
        "requires_grad is set on the result of an operator. Only leaves decide it; a result requires grad because its "
        "operands do.",
        "Use `x = x.detach()`, or set the flag of the leaves before the forward pass.",
        tensor="result",
    ),
    Refusal(
        "flag-of-integers",
        "GP621",
        (
            r"[Oo]nly Tensors of floating point (and complex )?dtype can require gradients",
            r"Autograd not support dtype",
        ),
        "A tensor of integers or booleans is to require grad. There is no derivative with respect to integers.",
        "Convert it before (`x.float()`), or leave requires_grad False: for a parameter `torch.nn.Parameter(x, "
        "requires_grad=False)` or a buffer.",
        tensor="integers",
    ),
    Refusal(
        "hook-without-grad",
        "GP621",
        (
            r"can't retain_grad on Tensor that has requires_grad=False",
            r"cannot register a hook on a (tensor|variable) that doesn't require gradient",
        ),
        "A gradient is to be kept or watched for a tensor that does not require grad, so it will never have one.",
        "Look at why it does not require grad: it was computed with grad disabled, detached, or only from tensors "
        "that do not require grad.",
        tensor="no-history",
        story="root",
    ),
    Refusal(
        "grad-of-result",
        "GP623",
        (
            r"post accumulate grad hooks cannot be registered on non-leaf tensors",
            r"grad_dtype can only be (set|accessed) on leaf tensors",
            r"__setstate__ can be only called on leaf Tensors",
        ),
        "Something that only a leaf has is asked of the result of an operator.",
        "Use the leaf itself, or a hook of another kind (`register_hook`, `retain_grad`).",
        tensor="result",
    ),
    Refusal(
        "deepcopy-of-result",
        "GP623",
        (r"Only Tensors created explicitly by the user \(graph leaves\) support the deepcopy protocol",),
        "A tensor that is the result of an operator is copied by `deepcopy`, often as an attribute of a module. It "
        "would have to copy the graph behind it.",
        "Store `x.detach()` there, or set the attribute to None before the copy.",
        tensor="result",
    ),
    Refusal(
        "parameter-from-result",
        "GP623",
        (r"can't optimize a non-leaf Tensor", r"Cannot assign non-leaf Tensor to parameter"),
        "The result of an operator is given to an optimizer or a module as a parameter. Its gradient would go to the "
        "tensors that it was computed from.",
        "Create a leaf: `torch.nn.Parameter(x.detach().clone())`; move and convert tensors before they are made to "
        "require grad.",
        tensor="result",
    ),
    Refusal(
        "tensor-for-parameter",
        "GP623",
        (r"cannot assign '.*' (as|object to) parameter '.*' \(torch\.nn\.Parameter or None",),
        "A tensor is assigned in the place of a module's parameter. As the result of an operator it would not be "
        "trained, and the optimizer would keep the parameter that it had.",
        "Write into the parameter (`with torch.no_grad(): layer.weight.copy_(x)`), or assign a new "
        "`torch.nn.Parameter` before the optimizer is created. For a computed weight use `torch.nn.utils.parametrize`.",
        story="",
    ),
    Refusal(
        "exported",
        "GP622",
        (
            r"Can't call numpy\(\) on Tensor that requires grad",
            r"Can't get __cuda_array_interface__ on Variable that requires grad",
            r"Can't export tensors that require gradient",
            r"Can't call (apply_|map_|map2_)\(\) on Variable that requires grad",
            r"Cannot insert a Tensor that requires grad as a constant",
            r"Cannot input a tensor that requires grad as a scalar argument",
        ),
        "The memory of a tensor that requires grad is given to code that autograd cannot see, such as NumPy.",
        "Use `x.detach()` there if no gradient is meant to pass.",
        tensor="grad",
        caught=NOTE,
    ),
    Refusal(
        "sent-to-process",
        "GP622",
        (r"Cowardly refusing to serialize non-leaf tensor which requires_grad",),
        "The result of an operator is sent to another process, where its graph does not exist.",
        "Send `x.detach()`.",
        tensor="result",
    ),
)
