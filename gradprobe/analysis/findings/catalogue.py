"""The rules: what each finding means, how serious it is, why it matters and what to do. Codes are stable."""

from __future__ import annotations

from dataclasses import dataclass

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)
"""The most serious first: wrong results or a crash; waste or a trap; by design."""


@dataclass(frozen=True)
class Rule:
    """One cause. The first digit of its code is the family that it belongs to."""

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
        "A call or a block that was never left leaves the thread in another mode.",
        "Everything that the thread does later runs under that mode, far from the line that set it: gradients vanish, or "
        "graphs are built where nobody wants them.",
        "Use `with torch.set_grad_enabled(...)`, or restore the mode in a `finally`.",
    ),
    Rule(
        "GP102",
        "manager-reentered",
        ERROR,
        "One manager object is entered while it is already open.",
        "The object remembers one earlier mode only. The inner block ends in the wrong mode, and the thread may stay in "
        "it for good.",
        "Make a new object for each block: `with torch.no_grad():`.",
    ),
    Rule(
        "GP103",
        "enable-grad-in-inference-mode",
        WARNING,
        "Gradients are switched on inside inference mode, which has no effect.",
        "`torch.is_grad_enabled()` says True and still no operator records a node: tensors made there are inference "
        "tensors.",
        "Use `torch.no_grad()` around it instead of inference mode, or `torch.inference_mode(False)` and clones of the "
        "inputs inside.",
    ),
    Rule(
        "GP104",
        "manager-never-entered",
        WARNING,
        "A manager is made and never entered, so it changes nothing.",
        "`torch.no_grad()` as a statement of its own only makes an object; the code after it still builds graphs.",
        "Enter it: `with torch.no_grad():`.",
    ),
    Rule(
        "GP105",
        "graph-cut-by-decorator",
        WARNING,
        "A decorated function cut the graph: its result is trained on, what went in gets no gradient.",
        "The caller has gradients on, and the parameters or activations that went in require grad. The decorator, often a "
        "library's, switches recording off without a word: only a part of the model learns.",
        "Call the undecorated function (`f.__wrapped__`), or move the decorator to where no gradient is wanted.",
    ),
    Rule(
        "GP106",
        "override-loses-decorator",
        WARNING,
        "A method overrides a decorated one without its decorator.",
        "Decorators are not inherited: the override builds a graph on each call, the base method does not.",
        "Decorate the override as well.",
    ),
    Rule(
        "GP201",
        "running-total-keeps-graph",
        WARNING,
        "A running total or a history keeps the graph of every step.",
        "The sum of losses holds on to each loss's graph and all that is saved in it, so memory grows with every step.",
        "Add numbers, not graphs: `total += loss.item()`, or `loss.detach()`.",
    ),
    Rule(
        "GP202",
        "activation-kept-with-graph",
        WARNING,
        "A hook stores activations together with their graphs.",
        "Each stored tensor keeps the graph behind it and what that saved for backward.",
        "Store `output.detach()`.",
    ),
    Rule(
        "GP203",
        "create-graph-cycle",
        WARNING,
        "`backward(create_graph=True)` makes a reference cycle between a parameter and its gradient.",
        "The gradient has a graph that refers to the parameter, whose `.grad` it is: neither is freed.",
        "Use `torch.autograd.grad(..., create_graph=True)`, or set `.grad = None` after use.",
    ),
    Rule(
        "GP204",
        "graph-built-and-dropped",
        NOTE,
        "Nodes were constructed and no backward reached them.",
        "They cost time, and memory until they are dropped.",
        "Where no gradients are wanted, run it under `torch.no_grad()` or `torch.inference_mode()`.",
    ),
    Rule(
        "GP301",
        "compile-recompiles-per-mode",
        WARNING,
        "A compiled function is compiled again for each mode and each kind of tensor it meets.",
        "`torch.compile` guards on the grad mode, on inference mode and on whether an input is an inference tensor: each "
        "combination is a compilation of its own.",
        "Make the inputs and call it under one mode.",
    ),
    Rule(
        "GP302",
        "torchscript-hides-modes",
        WARNING,
        "TorchScript does not keep to the modes as Python does.",
        "A scripted function with a block inside may return results without a graph for what stands outside of the block, "
        "and a decorator is lost when a function is scripted.",
        "Enter the mode around the call of the scripted function.",
    ),
    Rule(
        "GP303",
        "subclass-view-in-inference-mode",
        ERROR,
        "A tensor subclass that was made in normal mode is viewed in inference mode.",
        "The view shares its base's version counter, which an inference tensor cannot have: PyTorch raises.",
        "Make the weights under the same mode, or use `torch.no_grad()`.",
    ),
    Rule(
        "GP401",
        "inference-tensor-meets-autograd",
        ERROR,
        "An inference tensor is used where autograd needs a normal one.",
        "It was born in inference mode and has no version counter: autograd cannot save it, nor change it in place.",
        "Make it outside of inference mode, or go on with `x.clone()`.",
    ),
    Rule(
        "GP402",
        "half-converted-tensor",
        ERROR,
        "A tensor that was born in inference mode got new data outside of it, and is neither kind now.",
        "It says that it is normal and has no version counter: whatever autograd does with it fails.",
        "Build the module outside of inference mode, or give each parameter new data: `p.data = p.data.clone()`.",
    ),
    Rule(
        "GP403",
        "module-built-in-inference-mode",
        NOTE,
        "Parameters or buffers of a module are inference tensors and outlive the mode.",
        "The module cannot be trained, changed in place or loaded outside of inference mode.",
        "Build, move and load modules outside of inference mode.",
    ),
    Rule(
        "GP501",
        "derivative-is-zero-in-inference-mode",
        ERROR,
        "A derivative is asked for inside inference mode, where none can be found.",
        "`torch.autograd.functional` switches gradients on, which has no effect there, and takes what records nothing for "
        "independent: the result is zero, without an error.",
        "Call it under `torch.no_grad()` or outside of inference mode.",
    ),
    Rule(
        "GP502",
        "function-output-is-inference-tensor",
        ERROR,
        "A custom Function returns an inference tensor: it has a grad_fn, and the graph ends with it.",
        "What is computed from it records nothing, although it says that it requires grad.",
        "Return `out.clone()` made outside of the mode, or use `torch.no_grad()` in the forward.",
    ),
    Rule(
        "GP601",
        "saved-tensor-changed",
        ERROR,
        "A tensor that was saved for backward was changed in place before the backward.",
        "Modes hide the change from the graph, not from the version counter: the backward raises.",
        "Make the change after the backward, or compute the forward anew.",
    ),
    Rule(
        "GP602",
        "view-of-no-grad-changed",
        ERROR,
        "A view that was made under no_grad or inference mode is changed in place with gradients on.",
        "Autograd cannot tell whether the change is meant to be recorded, and refuses.",
        "Make the view and the change under the same mode.",
    ),
    Rule(
        "GP701",
        "mode-does-not-reach-thread",
        WARNING,
        "Work handed to another thread from inside a mode runs with gradients on.",
        "Modes belong to the thread: a new thread, a pool's or a server's, begins with gradients on.",
        "Enter the mode inside the function that the thread runs.",
    ),
    Rule(
        "GP702",
        "decorator-on-async-def",
        WARNING,
        "PyTorch's decorator on an `async def` does nothing.",
        "It is entered and left while the coroutine is made; the body runs later, under whatever mode is in force then.",
        "Use `with torch.no_grad():` inside, around code that does not await; or gradprobe's managers, which decorate "
        "`async def`.",
    ),
    Rule(
        "GP703",
        "mode-held-across-yield",
        WARNING,
        "A generator yields inside a block, and its consumer runs under the block's mode.",
        "The generator is suspended with the block open, so the mode stays in force for whoever asked for the next item.",
        "Leave the block before `yield`.",
    ),
    Rule(
        "GP704",
        "mode-held-across-await",
        WARNING,
        "A block is held across an `await`: the thread's other tasks run under its mode.",
        "Modes belong to the thread, not to the task; blocks that are left in another order leave the wrong mode.",
        "Leave the block before `await`.",
    ),
    Rule(
        "GP705",
        "exit-out-of-order",
        ERROR,
        "A block was left out of order, and brought back what was in force when it was entered.",
        "Inference mode restores all that it found at its entry, autocast among it, even where that has ended since.",
        "Leave blocks in the opposite order of their entry; do not hold inference mode in a generator or a task.",
    ),
    Rule(
        "GP706",
        "mode-does-not-reach-process",
        WARNING,
        "A process that was started under a mode runs with gradients on.",
        "A process that is spawned begins with gradients on, whatever the one that starts it has set. Only a forked one "
        "begins in the modes of the thread that forked it.",
        "Enter the mode inside the function that the process runs.",
    ),
    Rule(
        "GP801",
        "redundant-manager",
        NOTE,
        "A block sets the mode that is in force already.",
        "Each entry and exit costs about a microsecond.",
        "In hot paths, enter the mode once around the loop.",
    ),
    Rule(
        "GP901",
        "ranks-differ-in-graph",
        WARNING,
        "One rank builds a graph at a line where another builds none.",
        "Ranks are meant to do the same. One that builds no graph has no gradients to give: wrappers that sum them up "
        "wait for it, or train on the other ranks' alone.",
        "Set the mode on all ranks alike, or leave that work out on all of them.",
    ),
    Rule(
        "GP902",
        "ranks-differ-in-mode-at-collective",
        WARNING,
        "Ranks run one collective operator under different modes.",
        "The results have a graph on some ranks and none on others, or are inference tensors there. What follows fails "
        "on some ranks only, and the others wait for them.",
        "Enter the mode on all ranks, or leave it before the collective.",
    ),
)

RULES = {rule.code: rule for rule in _RULES}
FAMILIES = {
    "1": "Modes",
    "2": "Graphs",
    "3": "Compilers and wrappers",
    "4": "Inference tensors",
    "5": "Silently different results",
    "6": "Changes in place",
    "7": "Threads, tasks and generators",
    "8": "Waste",
    "9": "Ranks",
}
