"""Catalogue of the rules about custom Functions that run, but not as their authors expect."""

from __future__ import annotations

from gradprobe.analysis.findings.catalogue.rule import WARNING, Rule

RULES = (
    Rule(
        "GP632",
        "output-kept-by-context",
        WARNING,
        "A custom Function stores its own output as an attribute of its context.",
        "The output refers to its node, whose context refers to the output: a reference cycle, which only Python's garbage "
        "collector frees, together with all that the context keeps.",
        "Save the output by `ctx.save_for_backward`, which makes no cycle and notices modifications.",
    ),
    Rule(
        "GP633",
        "mode-asked-in-forward",
        WARNING,
        "The forward of a custom Function asks for the grad mode.",
        "PyTorch calls forward with grad disabled, so `torch.is_grad_enabled()` is always False there, and what depends on "
        "the answer is always skipped.",
        "Ask `ctx.needs_input_grad`, or ask before `apply` and pass the answer as an argument.",
    ),
)
"""Rules, by their codes."""
