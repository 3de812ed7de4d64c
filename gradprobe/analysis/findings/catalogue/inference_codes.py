"""Catalogue of the rules about inference tensors."""

from __future__ import annotations

from gradprobe.analysis.findings.catalogue.rule import ERROR, NOTE, WARNING, Rule

RULES = (
    Rule(
        "GP401",
        "inference-tensor-meets-autograd",
        ERROR,
        "An inference tensor is used where autograd needs a normal tensor.",
        "A tensor created in inference mode has no version counter: autograd cannot save it for backward, and it "
        "cannot be modified in place outside inference mode.",
        "Clone the tensor outside inference mode, before this use: `x = x.clone()`.",
    ),
    Rule(
        "GP402",
        "half-converted-tensor",
        ERROR,
        "An inference tensor was given new `.data` outside inference mode, as `module.to()` does.",
        "The tensor reports is_inference() == False but still has no version counter: saving it for backward, "
        "modifying it in place and reading its `_version` all raise an error.",
        "Build and convert the module outside inference mode.",
    ),
    Rule(
        "GP403",
        "module-built-in-inference-mode",
        NOTE,
        "Parameters, buffers or attributes of a module are inference tensors that escape inference mode.",
        "The module cannot be trained, modified in place or loaded from a state dict outside inference mode.",
        "Build, move and load modules outside inference mode.",
        counts_times=False,
    ),
    Rule(
        "GP404",
        "kept-inference-tensor",
        WARNING,
        "An inference tensor is kept where code that may run outside inference mode will write it, save it for backward "
        "or load into it.",
        "The attribute, global variable, closure or cache outlasts the phase that created the tensor, and a later phase "
        "fails: PyTorch refuses all of this outside inference mode.",
        "Create it under `with torch.inference_mode(False), torch.no_grad():`, or take a `.clone()` outside inference "
        "mode.",
    ),
)
"""Rules, by their codes."""
