"""Catalogue of the rules about gradients that do not arrive, and results that differ without an error."""

from __future__ import annotations

from gradprobe.analysis.findings.catalogue.rule import ERROR, WARNING, Rule

RULES = (
    Rule(
        "GP501",
        "derivative-is-zero-in-inference-mode",
        ERROR,
        "A derivative is computed inside inference mode, where no graph is recorded.",
        "`torch.autograd.functional` enables grad, which has no effect in inference mode, so the output looks "
        "independent of the input: the result is zero, without an error.",
        "Call it outside inference mode; under `torch.no_grad()` it works.",
    ),
    Rule(
        "GP502",
        "function-output-is-inference-tensor",
        ERROR,
        "A custom Function returns an inference tensor: it has a grad_fn, but the graph ends there.",
        "Operations on that tensor record nothing although its requires_grad is True, so no gradient reaches the "
        "inputs of the Function.",
        "Do not enter inference mode in `forward`: PyTorch calls it with grad disabled.",
    ),
    Rule(
        "GP503",
        "result-depends-on-mode",
        WARNING,
        "A function gives another result under another grad mode, for the same arguments.",
        "Code disables grad to save time and memory, and expects the same numbers. A function that computes something "
        "else then is evaluated, explained or served as another function than the one that was trained.",
        "Decide by `self.training` or an argument, and use the mode only for what does not change the result.",
    ),
    Rule(
        "GP504",
        "checkpoint-draws-other-numbers",
        ERROR,
        "A checkpointed function draws random numbers, and different ones when it runs again in the backward pass.",
        "`checkpoint(..., preserve_rng_state=False)` does not restore the state of the random generator. The backward pass "
        "computes the gradients of another result than the forward pass returned, without an error.",
        "Leave out `preserve_rng_state=False`.",
    ),
    Rule(
        "GP511",
        "parameter-gets-no-gradient",
        WARNING,
        "An optimizer steps with a parameter that took part in the forward pass but never gets a gradient.",
        "Gradient flows back only along the operators that autograd recorded. Where a tensor is detached, computed "
        "under no_grad or inference mode, read through `.data` or passed through an operator without a derivative, the "
        "path ends, and the optimizer silently skips the parameters behind it.",
        "Remove the cut, or take the parameter out of the optimizer if it is not meant to be trained.",
        counts_times=False,
    ),
    Rule(
        "GP512",
        "loss-is-a-leaf",
        ERROR,
        "A backward pass begins at a leaf: the loss has no graph, and no parameter gets a gradient from it.",
        "A tensor made from a number, a detached copy, or the result of code without grad has no history. Setting "
        "`requires_grad` on it makes `backward()` succeed without any effect on the model.",
        "Compute the loss from the model's output with operators that autograd records.",
    ),
    Rule(
        "GP513",
        "optimizer-holds-replaced-parameter",
        ERROR,
        "A parameter was replaced after the optimizer had been constructed: the optimizer updates one that nothing uses.",
        "An optimizer keeps the tensor objects that it was given. A parameter or module that is assigned later gets "
        "gradients that no step applies.",
        "Construct the optimizer after the last change of the model, or add the new parameters with `add_param_group`.",
        counts_times=False,
    ),
    Rule(
        "GP514",
        "gradient-without-optimizer",
        WARNING,
        "Backward passes compute gradients for parameters that belong to no optimizer and that nothing updates.",
        "Each pass costs the time of these gradients, and each `.grad` as much memory as its parameter. If the "
        "parameters are meant to be trained, they are not.",
        "Freeze them with `requires_grad_(False)`, or add them to the optimizer if they are meant to be trained.",
        counts_times=False,
    ),
    Rule(
        "GP515",
        "gradient-cleared-unused",
        WARNING,
        "Backward passes compute gradients that are cleared before any optimizer steps with them.",
        "If the graph of a loss leads to more parameters than the loss trains, the rest of it costs time and memory "
        "for nothing. A pass whose gradients are all cleared trains nothing.",
        "Detach what enters the loss from elsewhere, or do not clear the gradients before the step.",
        counts_times=False,
    ),
    Rule(
        "GP516",
        "leaf-rebound-by-update",
        ERROR,
        "The result of an update takes the place of the leaf that it updates.",
        "`w = w - lr * w.grad` makes a new tensor. With grad enabled it is a result, whose `.grad` stays None; under "
        "no_grad it does not require grad. Either way it is not trained any further.",
        "Update in place: `with torch.no_grad(): w -= lr * w.grad`.",
        counts_times=False,
    ),
    Rule(
        "GP517",
        "update-reaches-a-copy",
        WARNING,
        "An update is computed from gradients, and nothing uses its result.",
        "A loop variable, a detached copy or a flattened vector is another tensor than the parameter. Assigning to it "
        "or writing to it leaves the parameter as it was, so the model does not train.",
        "Write to the parameter itself: `with torch.no_grad(): p -= lr * p.grad`.",
        counts_times=False,
    ),
    Rule(
        "GP518",
        "loss-term-without-graph",
        WARNING,
        "A term of the loss has no graph: it is added as a constant and trains nothing.",
        "The rest of the loss trains, so no parameter lacks a gradient and no error is raised. A penalty on gradients, or "
        "forces that are the derivative of an energy, need gradients that have a graph; a count or a comparison has no "
        "derivative at all.",
        "Pass `create_graph=True` to `torch.autograd.grad`, or compute the term with differentiable operations.",
    ),
    Rule(
        "GP519",
        "futile-freeze",
        WARNING,
        "A line that is meant to freeze parameters sets an attribute that nothing reads.",
        "`requires_grad` is a property of tensors. On a module it becomes an ordinary attribute, and so does a misspelt "
        "name on a tensor: no error is raised, and the optimizer goes on to change the parameters.",
        "Call `module.requires_grad_(False)`, which sets the flag of all its parameters.",
    ),
    Rule(
        "GP521",
        "gradient-changed-at-wrong-time",
        WARNING,
        "A line limits or changes gradients at a time when this has no effect, or another one than its limit says.",
        "A step applies the gradients as they are when it is called. What is clipped after it, or before the backward "
        "pass, changes nothing, and a limit on gradients that are still multiplied by the loss scale is another limit.",
        "Call it after `backward()`, and after `unscale_()` if there is a scaler, and before `step()`.",
    ),
    Rule(
        "GP522",
        "step-takes-old-gradient",
        WARNING,
        "An optimizer steps with a gradient that contains another one: of an earlier step, or of another optimizer's loss.",
        "A backward pass adds to the gradients that it finds. Those that are not cleared are applied again by each step "
        "that follows, and those that the loss of one part gives to another part are applied with that part's own.",
        "Call `zero_grad()` of the optimizer that has these parameters before the backward pass.",
    ),
    Rule(
        "GP523",
        "grad-of-result",
        WARNING,
        "The program reads `.grad` of a tensor that an operator computed.",
        "A backward pass stores gradients in leaves only. The `grad` of any other tensor stays None unless `retain_grad()` "
        "was called; `torch.randn(3, requires_grad=True).to(device)` or `* 0.1` is not a leaf.",
        "Call `retain_grad()` on it before `backward()`, or make it a leaf with `.detach().requires_grad_()`.",
    ),
    Rule(
        "GP524",
        "hook-changes-gradient",
        WARNING,
        "A hook on a tensor changes a gradient in place that other tensors get too, or makes zeros of one.",
        "A hook gets the tensor that the engine passes on, and the engine may pass the same one to several operands. And "
        "what a hook multiplies by zero is lost for all parameters behind it, which an optimizer then does not train.",
        "Return a new tensor from the hook, and freeze what is not to be trained with `requires_grad_(False)`.",
    ),
    Rule(
        "GP525",
        "shortcut-cut",
        WARNING,
        "A value goes past some layers by a shortcut that is cut, and joins their result.",
        "The layers carry gradient, so every parameter gets one, but only the part that comes through them. Without the "
        "other part a deep network trains badly, which is what shortcuts are for.",
        "Pass on the value itself, without `detach()`, and copy it outside of `no_grad`.",
    ),
    Rule(
        "GP526",
        "checkpoint-cuts-graph",
        WARNING,
        "A reentrant checkpoint gets no input that requires grad: nothing that runs inside it is trained.",
        "`checkpoint(..., use_reentrant=True)` runs the function with grad disabled, and is connected to the graph by its "
        "inputs only. The first block of a network, and frozen embeddings before it, have no such input.",
        "Pass `use_reentrant=False`, or call `requires_grad_()` on the input.",
    ),
)
"""Rules, by their codes."""
