"""Catalogue of the rules: severity, summary, reason and fix of each finding. Codes are stable."""

from __future__ import annotations

from dataclasses import dataclass

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)
"""Severities, the most serious first: wrong results or an exception; waste or a trap; by design."""


@dataclass(frozen=True)
class Rule:
    """A cause of findings. The first digit of its code is the family that it belongs to."""

    code: str
    name: str
    severity: str
    summary: str
    why: str
    fix: str


_RULES = (
    Rule(
        "GP101",
        "mode-left-changed",
        WARNING,
        "A function disables grad by a plain call and returns without restoring the mode.",
        "Grad mode is thread-local state and stays set until something changes it: everything that the thread runs "
        "later, far from the line that set the mode, runs without gradients.",
        "Use `with torch.set_grad_enabled(...):`, or restore the previous mode in a `finally` block.",
    ),
    Rule(
        "GP102",
        "manager-reentered",
        ERROR,
        "A context manager object is entered again while it is still open.",
        "The object stores only one previous mode, and the second entry overwrites it: when the outer block exits, it "
        "restores the mode of the inner entry, and the thread can stay in that mode.",
        "Create a new object for each block: `with torch.no_grad():`.",
    ),
    Rule(
        "GP103",
        "enable-grad-in-inference-mode",
        WARNING,
        "Grad is enabled inside inference mode, where that has no effect.",
        "`torch.is_grad_enabled()` returns True, but no operator records an autograd node and every new tensor is an "
        "inference tensor.",
        "Use `torch.no_grad()` instead of inference mode for the outer block, or enter `torch.inference_mode(False)` "
        "inside it and clone the inputs there.",
    ),
    Rule(
        "GP104",
        "manager-never-entered",
        WARNING,
        "A context manager is created but never entered, so it has no effect.",
        "`torch.no_grad()` as a statement only creates an object: the code after it still builds graphs.",
        "Enter it: `with torch.no_grad():`.",
    ),
    Rule(
        "GP105",
        "graph-cut-by-decorator",
        WARNING,
        "A decorator cuts the graph: the result is trained on, but the inputs and parameters get no gradient.",
        "Grad is enabled in the caller, and the tensors that go in require grad. The decorator, often one in a "
        "library, disables grad for the call without a warning, so `backward()` succeeds and trains only a part of "
        "the model.",
        "Call the undecorated function (`f.__wrapped__`), or decorate only code that needs no gradients.",
    ),
    Rule(
        "GP106",
        "override-loses-decorator",
        WARNING,
        "A method overrides a decorated method without the decorator.",
        "Decorators are not inherited: each call of the override builds a graph, a call of the base method does not.",
        "Decorate the override as well.",
    ),
    Rule(
        "GP201",
        "running-total-keeps-graph",
        WARNING,
        "A running total, a history or another container keeps the graph of every step.",
        "A tensor keeps the graph behind it alive, and with it every tensor saved for backward, so memory grows with each "
        "step.",
        "Keep numbers instead of graphs: `loss.item()` or `loss.detach()`.",
    ),
    Rule(
        "GP202",
        "activation-kept-with-graph",
        WARNING,
        "A hook stores activations together with their graphs.",
        "Each stored tensor keeps its `grad_fn` alive, and with it the graph behind it and the tensors saved for "
        "backward.",
        "Store `output.detach()`.",
    ),
    Rule(
        "GP203",
        "create-graph-cycle",
        WARNING,
        "`backward(create_graph=True)` creates a reference cycle between a parameter and its gradient.",
        "The gradient has a graph that references the parameter, and the parameter references the gradient as "
        "`.grad`, so neither is freed.",
        "Use `torch.autograd.grad(..., create_graph=True)`, or set `.grad = None` after use.",
    ),
    Rule(
        "GP204",
        "graph-built-and-dropped",
        WARNING,
        "Autograd nodes were constructed again and again, but no backward pass reached them.",
        "Constructing a node costs time, and the tensors that it saves occupy memory until the graph is freed. A dry "
        "run, or a few nodes among many, are reported as a note.",
        "Run code that needs no gradients under `torch.no_grad()` or `torch.inference_mode()`.",
    ),
    Rule(
        "GP205",
        "backward-repeats-earlier-iterations",
        WARNING,
        "A backward pass goes through the graphs of earlier iterations again.",
        "A hidden state, a running value or a cached result carries its graph into the next iteration, and "
        "`retain_graph=True` keeps what the earlier pass used. Each iteration takes longer and more memory than the one "
        "before.",
        "Detach what is carried over: `state = state.detach()`, and leave out `retain_graph=True`.",
    ),
    Rule(
        "GP301",
        "compile-recompiles-per-mode",
        WARNING,
        "A compiled function is recompiled for each combination of grad mode and kind of tensor.",
        "`torch.compile` guards on grad mode, on inference mode and on whether each input is an inference tensor: each "
        "combination is compiled separately.",
        "Create the inputs and call the compiled function under one mode.",
    ),
    Rule(
        "GP302",
        "torchscript-hides-modes",
        WARNING,
        "TorchScript does not preserve grad-mode semantics.",
        "A scripted function that contains a mode block may return results without a graph even for operations "
        "outside the block, and scripting a decorated function drops the decorator.",
        "Enter the mode around the call of the scripted function.",
    ),
    Rule(
        "GP303",
        "subclass-view-in-inference-mode",
        ERROR,
        "A tensor subclass that was created in normal mode is viewed in inference mode.",
        "A view shares the version counter of its base, but a view created in inference mode is an inference tensor, "
        "which cannot have one: PyTorch raises an error.",
        "Create the tensor under the same mode, or use `torch.no_grad()`.",
    ),
    Rule(
        "GP401",
        "inference-tensor-meets-autograd",
        ERROR,
        "An inference tensor is used where autograd needs a normal tensor.",
        "A tensor created in inference mode has no version counter: autograd cannot save it for backward, and it "
        "cannot be modified in place outside inference mode.",
        "Create it outside inference mode, or use `x.clone()` outside inference mode.",
    ),
    Rule(
        "GP402",
        "half-converted-tensor",
        ERROR,
        "An inference tensor was given new `.data` outside inference mode, as `module.to()` does.",
        "The tensor reports is_inference() == False but still has no version counter: saving it for backward, "
        "modifying it in place and reading its `_version` all raise an error.",
        "Build and convert the module outside inference mode, or replace each parameter: "
        "`layer.weight = torch.nn.Parameter(layer.weight.data.clone())`.",
    ),
    Rule(
        "GP403",
        "module-built-in-inference-mode",
        NOTE,
        "Parameters, buffers or attributes of a module are inference tensors that escape inference mode.",
        "The module cannot be trained, modified in place or loaded from a state dict outside inference mode.",
        "Build, move and load modules outside inference mode.",
    ),
    Rule(
        "GP501",
        "derivative-is-zero-in-inference-mode",
        ERROR,
        "A derivative is computed inside inference mode, where no graph is recorded.",
        "`torch.autograd.functional` enables grad, which has no effect in inference mode, so the output looks "
        "independent of the input: the result is zero, without an error.",
        "Call it under `torch.no_grad()` or outside inference mode.",
    ),
    Rule(
        "GP502",
        "function-output-is-inference-tensor",
        ERROR,
        "A custom Function returns an inference tensor: it has a grad_fn, but the graph ends there.",
        "Operations on that tensor record nothing although its requires_grad is True, so no gradient reaches the "
        "inputs of the Function.",
        "Return `out.clone()` created outside inference mode, or use `torch.no_grad()` in `forward`.",
    ),
    Rule(
        "GP511",
        "parameter-gets-no-gradient",
        WARNING,
        "An optimizer steps with a parameter that took part in the forward pass but never gets a gradient.",
        "Gradient flows back only along the operators that autograd recorded. Where a tensor is detached, computed under "
        "no_grad or inference mode, read through `.data` or passed through an operator without a derivative, its way "
        "ends, and the optimizer skips the parameters behind it without a word.",
        "Remove the cut, or take the parameter out of the optimizer if it is meant to stay as it is.",
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
    ),
    Rule(
        "GP514",
        "gradient-without-optimizer",
        WARNING,
        "Backward passes compute gradients for parameters that no optimizer has and nothing writes.",
        "Each pass costs the time of these gradients, and each `.grad` as much memory as its parameter. If the "
        "parameters are meant to be trained, they are not.",
        "Freeze them with `requires_grad_(False)` or run their part under `torch.no_grad()`; or add them to the optimizer.",
    ),
    Rule(
        "GP601",
        "saved-tensor-changed",
        ERROR,
        "A tensor that was saved for backward was modified in place before the backward pass.",
        "Disabling grad keeps the modification out of the graph, but it still increments the version counter: the "
        "backward pass detects the mismatch and raises an error.",
        "Modify the tensor after the backward pass, or run the forward pass again.",
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
        "Modify it under `torch.no_grad()`, or use the out-of-place operation.",
    ),
    Rule(
        "GP604",
        "view-not-modifiable",
        ERROR,
        "A view is modified in place that autograd does not let be modified.",
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
        "`state_dict()`, `.data`, `detach()` and views share their memory with the tensor. A snapshot made of them follows "
        "each later write, and to restore it changes nothing.",
        "Copy when the snapshot is taken: `copy.deepcopy(model.state_dict())` or `tensor.clone()`.",
    ),
    Rule(
        "GP607",
        "compared-with-itself",
        WARNING,
        "A tensor is compared with an alias of itself.",
        "`.data`, `detach()` and views share their memory with the tensor: what was kept to be compared with changes "
        "together with it, and the difference is always 0.",
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
    ),
    Rule(
        "GP701",
        "mode-does-not-reach-thread",
        WARNING,
        "Work submitted to another thread under no_grad or inference mode runs there with grad enabled.",
        "Grad mode is thread-local: a new thread, or one of a pool or a server, starts with grad enabled.",
        "Enter the mode inside the function that the thread runs.",
    ),
    Rule(
        "GP702",
        "decorator-on-async-def",
        WARNING,
        "A grad-mode decorator of PyTorch has no effect on the body of an `async def`.",
        "The decorator enters and exits the mode while the coroutine object is created. The body runs later, under the "
        "mode that is current then.",
        "Use `with torch.no_grad():` inside, around code that does not await, or decorate with gradprobe's context "
        "managers, which support `async def`.",
    ),
    Rule(
        "GP703",
        "mode-held-across-yield",
        WARNING,
        "A generator yields inside a mode block, so its consumer runs under the block's mode.",
        "Grad mode is thread-local, and the generator is suspended with the block open: the mode stays active for the "
        "code that asked for the next item.",
        "Exit the block before `yield`.",
    ),
    Rule(
        "GP704",
        "mode-held-across-await",
        WARNING,
        "A mode block is open across an `await`, so other tasks of the thread run under its mode.",
        "Grad mode belongs to the thread, not to the task. While the block is open the event loop runs other tasks, "
        "and blocks that exit in a different order restore the wrong mode.",
        "Exit the block before `await`.",
    ),
    Rule(
        "GP705",
        "exit-out-of-order",
        ERROR,
        "A mode block was exited out of order and restored a stale mode.",
        "On exit, inference mode restores all thread-local state that it saved on entry, including autocast, even if "
        "the autocast block has ended in the meantime.",
        "Exit blocks in the reverse order of their entry; do not keep inference mode open in a generator or a task.",
    ),
    Rule(
        "GP706",
        "mode-does-not-reach-process",
        WARNING,
        "A process that was started under no_grad or inference mode runs with grad enabled.",
        "A spawned process starts with grad enabled, regardless of the mode of the process that started it. Only a "
        "forked process inherits the mode of the thread that forked it.",
        "Enter the mode inside the function that the process runs.",
    ),
    Rule(
        "GP801",
        "redundant-manager",
        NOTE,
        "A block sets the mode that is already active.",
        "Each entry and exit costs about a microsecond.",
        "In hot paths, enter the mode once around the loop.",
    ),
    Rule(
        "GP901",
        "ranks-differ-in-graph",
        WARNING,
        "Some ranks build a graph at a line where other ranks build none.",
        "Ranks are expected to run the same work. A rank without a graph contributes no gradients: wrappers that "
        "reduce gradients wait for it, or train on those of the other ranks alone.",
        "Set the same mode on all ranks, or skip the work on all ranks.",
    ),
    Rule(
        "GP902",
        "ranks-differ-in-mode-at-collective",
        WARNING,
        "Ranks run the same collective operator under different modes.",
        "The results have a graph on some ranks and none on others, or are inference tensors there. Later code fails "
        "on some ranks only, and the other ranks wait for them.",
        "Enter the mode on all ranks, or exit it before the collective.",
    ),
)

RULES = {rule.code: rule for rule in _RULES}
