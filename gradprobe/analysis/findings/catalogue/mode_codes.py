"""Catalogue of the rules about modes: where they are entered, left, lost or superfluous."""

from __future__ import annotations

from gradprobe.analysis.findings.catalogue.rule import ERROR, NOTE, WARNING, Rule

RULES = (
    Rule(
        "GP101",
        "mode-left-changed",
        WARNING,
        "A function disables grad by a plain call and returns without restoring the mode.",
        "Grad mode is thread-local state and stays set until something changes it: everything that the thread runs "
        "later, far from the line that set the mode, runs without gradients.",
        "Use a block instead of the call: `with torch.set_grad_enabled(False):`.",
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
        "Use `torch.no_grad()` instead of `torch.inference_mode()` for the outer block.",
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
        "Remove the decorator from code that is trained; if it is a library's, call the undecorated function, "
        "`f.__wrapped__`.",
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
        "GP107",
        "inference-mode-false-enables-grad",
        WARNING,
        "`inference_mode(False)` enables grad inside a block that disables it.",
        "Leaving inference mode sets grad mode too: `torch.inference_mode(False)` enables grad even if the block around it "
        "disables it, so operators inside build a graph under `no_grad`.",
        "Disable grad again inside: `with torch.inference_mode(False), torch.no_grad():`.",
    ),
    Rule(
        "GP801",
        "redundant-manager",
        NOTE,
        "A block sets the mode that is already active.",
        "Each entry and exit costs about a microsecond.",
        "Remove the block where the code around it has set the same mode, or enter the mode once around the loop.",
        counts_times=False,
    ),
)
"""Rules, by their codes."""
