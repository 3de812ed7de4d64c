"""Catalogue of the rules about what autograd refuses, and about modifications that it does not see."""

from __future__ import annotations

from gradprobe.analysis.findings.catalogue.rule import ERROR, NOTE, WARNING, Rule

RULES = (
    Rule(
        "GP601",
        "saved-tensor-changed",
        ERROR,
        "A tensor that was saved for backward was modified in place before the backward pass.",
        "Disabling grad keeps the modification out of the graph, but it still increments the version counter: the "
        "backward pass detects the mismatch and raises an error.",
        "Use the out-of-place operation, such as `x = x + 1`; if an optimizer made the modification, run the forward "
        "pass again after the step.",
    ),
    Rule(
        "GP602",
        "view-of-no-grad-changed",
        ERROR,
        "A view that was created under no_grad or inference mode is modified in place with grad enabled.",
        "Autograd cannot know whether the modification should be recorded, and raises an error.",
        "Create the view and modify it under the same mode.",
    ),
    Rule(
        "GP603",
        "leaf-modified",
        ERROR,
        "A leaf that requires grad, or a view of one, is modified in place with grad enabled.",
        "The leaf would become the result of an operator and not receive a gradient any more: PyTorch raises an error.",
        "Update it under `torch.no_grad()`; if the operation belongs to the model, use its out-of-place form.",
    ),
    Rule(
        "GP604",
        "view-not-modifiable",
        ERROR,
        "An in-place operation modifies a view for which autograd does not allow it.",
        "One of several views of one operator, a view from a custom Function and a view with overlapping elements "
        "have no history of their own that a modification could change: PyTorch raises an error.",
        "Use an out-of-place operation, or clone the view first.",
    ),
    Rule(
        "GP605",
        "memory-replaced",
        ERROR,
        "The memory of a tensor that autograd works with is replaced, resized or written by `out=`.",
        "The history and the gradient of the tensor would not fit what it contains: PyTorch raises an error.",
        "Create a new tensor, or make the change under `torch.no_grad()`.",
    ),
    Rule(
        "GP611",
        "graph-freed",
        ERROR,
        "A backward pass reaches a part of the graph that an earlier backward has freed.",
        "A backward frees what the nodes saved as it goes through them. A loss that shares nodes with an earlier one, "
        "or a state that is carried from one iteration to the next, leads to them again: PyTorch raises an error.",
        "Add up the losses and call `backward()` once, or `detach()` what is carried on.",
    ),
    Rule(
        "GP612",
        "no-graph-at-root",
        ERROR,
        "A gradient is asked for of a tensor that has no graph.",
        "Nothing was recorded on the way to the tensor, because grad was disabled, the tensors were detached, or none "
        "of them requires grad. No parameter gets a gradient: PyTorch raises an error.",
        "Compute the tensor with grad enabled from tensors that require grad.",
    ),
    Rule(
        "GP613",
        "input-not-in-graph",
        ERROR,
        "A gradient is asked for with respect to a tensor that the result does not depend on.",
        "The graph leads from the result to other tensors: a copy, a detached tensor or the one that this one was "
        "made of. There is no gradient to return: PyTorch raises an error.",
        "Compute the result from this very tensor, or pass `allow_unused=True`.",
    ),
    Rule(
        "GP614",
        "gradient-does-not-fit",
        ERROR,
        "A gradient is missing that backward() needs, or one is given that does not fit its tensor.",
        "Without an argument, backward() works for one real number only. A gradient has the shape, the dtype and the "
        "device of its tensor: PyTorch raises an error otherwise.",
        "Reduce the loss to one number, or give a gradient of the right shape.",
    ),
    Rule(
        "GP615",
        "derivative-not-available",
        ERROR,
        "A backward pass reaches an operator that cannot be differentiated, or not a second time.",
        "The operator has no formula for its derivative, or one that autograd cannot differentiate again: PyTorch "
        "raises an error.",
        "Use a differentiable operator, give it a derivative, or detach its input.",
    ),
    Rule(
        "GP621",
        "flag-refused",
        ERROR,
        "requires_grad or a hook is set on a tensor that cannot have it.",
        "Only leaves of floating-point or complex numbers can be made to require grad, and only tensors that require "
        "grad can have hooks on their gradient: PyTorch raises an error.",
        "Set the flag of the leaves before the forward pass.",
    ),
    Rule(
        "GP622",
        "graph-left-by-export",
        ERROR,
        "A tensor that requires grad is given to code that autograd cannot see.",
        "NumPy, DLPack and other processes would use the memory of the tensor without its history: PyTorch raises an "
        "error.",
        "Use `x.detach()` there.",
    ),
    Rule(
        "GP623",
        "result-where-leaf-is-needed",
        ERROR,
        "The result of an operator is used where a leaf is needed: as a parameter, in an optimizer, by deepcopy.",
        "The result belongs to a graph. It cannot be copied without it, and its gradient goes to the tensors that it "
        "was computed from: PyTorch raises an error.",
        "Use `x.detach()`, or create a `torch.nn.Parameter` from it.",
    ),
    Rule(
        "GP631",
        "function-or-hook-misused",
        ERROR,
        "A custom Function or a hook does not keep its contract with autograd.",
        "Autograd calls the Function's backward and the hooks in the middle of a pass, and needs gradients of the "
        "right number, shape and type from them: PyTorch raises an error otherwise.",
        "Return one gradient for each argument, and save tensors by `ctx.save_for_backward`.",
    ),
    Rule(
        "GP641",
        "transform-refuses",
        ERROR,
        "A function under torch.func does what the transform cannot follow.",
        "The transforms work on levels of their own: backward(), in-place modifications of other tensors and reads of "
        "values would go past them, so PyTorch raises an error.",
        "Use torch.func's transforms and out-of-place operations inside the function.",
    ),
    Rule(
        "GP642",
        "forward-mode-refuses",
        ERROR,
        "Forward-mode differentiation is used where it is not possible.",
        "A dual tensor belongs to one level, has one tangent of the shape of its primal, and not each operator has a "
        "forward derivative: PyTorch raises an error.",
        "Use dual tensors inside their level, with tangents that fit.",
    ),
    Rule(
        "GP651",
        "checkpoint-refuses",
        ERROR,
        "A checkpointed function cannot be run again as it ran in the forward pass.",
        "Checkpointing saves the arguments only and runs the function again in the backward pass. If that does "
        "something else, gradients would be wrong: PyTorch raises an error.",
        "Let the function depend on its arguments alone, and pass `use_reentrant=False`.",
    ),
    Rule(
        "GP661",
        "wrapper-refuses",
        ERROR,
        "DistributedDataParallel or FullyShardedDataParallel cannot reduce the gradients of an iteration.",
        "They expect one gradient for each parameter in each iteration. A parameter without one, or with two, would "
        "leave the ranks waiting for each other or different: PyTorch raises an error.",
        "Let each parameter take part exactly once, or say so by `find_unused_parameters=True` or `static_graph=True`.",
    ),
    Rule(
        "GP690",
        "other-refusal",
        NOTE,
        "PyTorch refused an operation on account of gradients, for another reason.",
        "The message is about autograd, and no other rule explains it.",
        "Read the message; the related lines show where the tensors come from.",
    ),
    Rule(
        "GP606",
        "copied-onto-itself",
        WARNING,
        "A tensor is copied onto itself, because what was kept of it is an alias.",
        "`state_dict()`, `.data`, `detach()` and views share their memory with the tensor. A snapshot made of them "
        "follows each later write, and restoring it changes nothing.",
        "Copy when the snapshot is taken: `copy.deepcopy(model.state_dict())` or `tensor.clone()`.",
    ),
    Rule(
        "GP607",
        "compared-with-itself",
        WARNING,
        "A tensor is compared with an alias of itself.",
        "`.data`, `detach()` and views share their memory with the tensor: what was kept for the comparison changes "
        "together with the tensor, and the difference is always 0.",
        "Keep a copy: `tensor.detach().clone()`.",
    ),
    Rule(
        "GP608",
        "stack-of-aliases",
        WARNING,
        "All tensors of a stack share one memory.",
        "`torch.from_numpy`, views and buffers that are written in place show what was written last. A history of them "
        "holds one value many times.",
        "Copy each value as it is stored: `tensor.clone()` or `torch.tensor(array)`.",
        counts_times=False,
    ),
    Rule(
        "GP609",
        "saved-tensor-changed-unseen",
        ERROR,
        "The memory of a tensor that was saved for backward was written without its version counter.",
        "`.data`, NumPy, DLPack and arrays behind `torch.from_numpy` share the memory of a tensor, but not its version "
        "counter. The backward pass takes the new values for those of the forward pass: gradients are wrong, without an "
        "error.",
        "Write after the backward pass, or to a copy: `tensor.detach().clone()`, `array.copy()`.",
        counts_times=False,
    ),
)
"""Rules, by their codes."""
