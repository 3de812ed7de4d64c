"""Catalogue of the rules about compilers and wrappers."""

from __future__ import annotations

from gradprobe.analysis.findings.catalogue.rule import ERROR, WARNING, Rule

RULES = (
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
        "Use `torch.no_grad()` instead of inference mode around the view.",
    ),
    Rule(
        "GP304",
        "inference-mode-in-compiled-code",
        ERROR,
        "A function that enters inference mode could not be compiled.",
        "Compilers of graphs make views and set version counters, which inference tensors do not have. In some versions of "
        "PyTorch the failure also leaves the thread's dispatch state changed, and each later operator of the thread fails.",
        "Enter inference mode around the call of the compiled function, or use `torch.no_grad()` inside of it.",
    ),
)
"""Rules, by their codes."""
