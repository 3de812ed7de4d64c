"""Refusals of a backward pass: graphs that are freed or absent, inputs that are not in them, gradients that do not fit."""

from __future__ import annotations

from gradprobe.refusals.refusal import ERROR, NOTE, Refusal

REFUSALS = (
    Refusal(
        "graph-freed",
        "GP611",
        (
            r"Trying to backward through the graph a second time",
            r"Trying to backward an extra time",
            r"Calling register_hooks on a saved tensor after it has been freed",
        ),
        "A backward pass reaches a part of the graph that an earlier backward has freed.",
        "Add up the losses that share the part and call `backward()` once, or `detach()` what is carried from one "
        "iteration to the next. Use `retain_graph=True` in the earlier backward only if the same graph is needed "
        "twice.",
        kept_fix="Compute x again for each pass, or store it with `detach()` if it shall be a constant.",
        story="freed",
    ),
    Refusal(
        "saved-read-twice",
        "GP611",
        (r"saved_tensors can only be accessed once when clear_saved_tensors_on_access=True",),
        "`ctx.saved_tensors` is read twice, and the first read has freed them.",
        "Read `ctx.saved_tensors` once into a variable.",
        story="freed",
    ),
    Refusal(
        "no-graph-at-root",
        "GP612",
        (
            r"element \d+ of tensors does not require grad and does not have a grad_fn",
            r"Output \d+ of the user-provided function does not require gradients",
            r"requires_grad not set on root",
        ),
        "backward() or grad() starts from a tensor without a graph: nothing on the way to it was recorded, so nothing "
        "gets a gradient.",
        "Compute it with grad enabled from tensors that require grad, without `detach()`, `.data`, `.item()` or a new "
        "tensor in between.",
        tensor="no-history",
        story="root",
    ),
    Refusal(
        "no-gradient-edge",
        "GP612",
        (r"It is not possible to get the gradient edge for a Tensor that does not require gradients",),
        "The gradient edge of a tensor is asked for that does not require grad, and so is in no graph.",
        "Compute it with grad enabled from tensors that require grad.",
        tensor="no-history",
        story="root",
    ),
    Refusal(
        "input-unused",
        "GP613",
        (
            r"differentiated Tensors?( at index \d+)? appears to not have been used in the graph",
            r"is independent of .*not allowed in strict mode",
        ),
        "A gradient is asked for with respect to a tensor that the result does not depend on, as far as the graph "
        "goes.",
        "Compute the result from this very tensor, not from a copy, a detached tensor or the one it was made of; or "
        "pass `allow_unused=True` if the gradient may be None.",
        story="unused",
    ),
    Refusal(
        "input-without-grad",
        "GP613",
        (r"differentiated Tensors?( at index \d+)? does not require grad",),
        "A gradient is asked for with respect to a tensor that does not require grad.",
        "Call `requires_grad_()` on it before the forward pass.",
        story="unused",
    ),
    Refusal(
        "no-inputs",
        "GP613",
        (r"`inputs` argument to `(backward|grad)\(\)` cannot be empty",),
        "A gradient is asked for with respect to no tensor at all: the list of inputs is empty, as a generator is "
        "that was read before.",
        "Pass a list of the tensors, for example `list(model.parameters())`.",
        story="",
    ),
    Refusal(
        "root-not-scalar",
        "GP614",
        (r"grad can be implicitly created only for (real )?scalar outputs",),
        "backward() without an argument is called on a tensor of several elements, or on a complex one: it needs one real "
        "number to begin with.",
        "Reduce it to one real number (`loss.mean().backward()`), or pass `gradient=` of its shape.",
        story="root",
    ),
    Refusal(
        "gradient-does-not-fit",
        "GP614",
        (
            r"Mismatch in (shape|dtype): grad_output",
            r"gradients can be either Tensors or None",
            r"element \d+ of gradients tuple is",
            r"assigned grad (has data of a different|expected to be)",
            r"attempting to assign a gradient (with|of)",
            r"can't assign Variable as its own grad",
            r"The gradient must match the tensor's grad_dtype",
            r"because there is already a gradient with dtype",
            r"If `is_grads_batched=True`, we interpret the first dimension",
            r"require that both grad_output and output|both grad_output and output are required to have the same dtype",
        ),
        "A gradient is given that does not fit its tensor in shape, type or device.",
        "Give it the shape, dtype and device of the tensor (`torch.ones_like(out)`).",
        story="",
    ),
    Refusal(
        "derivative-missing",
        "GP615",
        (
            r"derivative for .+ is not implemented",
            r"does not support automatic differentiation for outputs with complex dtype",
            r"no autograd formula was registered",
            r"quantized tensors do not support autograd",
            r"is not differentiable(?! wrt running_mean)",
            r"Cannot register autograd formula for",
        ),
        "A backward pass reaches an operator for which PyTorch has no derivative.",
        "Use a differentiable operator in its place, give it a derivative (`register_autograd`, `autograd.Function`), "
        "or detach its input if no gradient is meant to pass.",
        story="node",
    ),
    Refusal(
        "derivative-only-once",
        "GP615",
        (
            r"marked with @once_differentiable",
            r"does not currently support double backward",
            r"[Dd]ouble backwards? (is )?not (supported|implemented)",
            r"FSDP does not support gradients of gradients",
        ),
        "A gradient of a gradient is asked for, and an operator on the way can be differentiated only once.",
        "Run this part in eager mode or with differentiable operators in its backward, or compute the first gradient "
        "without `create_graph=True`.",
        story="node",
    ),
    Refusal(
        "engine-after-fork",
        "GP690",
        (r"Unable to handle autograd's threading in combination with fork-based multiprocessing",),
        "A forked process runs a backward pass, and the process that it was forked from had run one before: "
        "autograd's threads do not exist in the child.",
        "Start the processes by `spawn`, or before the first backward.",
        story="",
        severity=ERROR,
        needs="a device whose backward runs in threads of its own",
    ),
    Refusal(
        "graph-in-capture",
        "GP690",
        (r"During CUDA graph capture, autograd node",),
        "A CUDA graph is being captured, and a backward pass in it reaches nodes that were recorded before, on "
        "another stream.",
        "Run the forward pass inside the capture, and delete the losses of the warm-up before it.",
        story="node",
        severity=ERROR,
        needs="a CUDA device",
    ),
    Refusal(
        "nan-in-anomaly-mode",
        "GP690",
        (r"returned nan values in its \d+th output",),
        "Anomaly detection stops a backward pass, because a node returned NaN.",
        "Look at the forward line of the node: a division by zero, a root or logarithm of zero, or an overflow.",
        story="node",
        severity=ERROR,
        caught=NOTE,
    ),
)
