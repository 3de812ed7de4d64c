"""Refusals of inference tensors: they have no version counter, and autograd works with normal tensors only."""

from __future__ import annotations

from gradprobe.refusals.refusal import ERROR, Refusal

_CLONE = "Clone the tensor outside inference mode, before this use: `x = x.clone()`."
_BUILD = "Build the module outside inference mode: what is built inside has inference tensors as parameters."

REFUSALS = (
    Refusal(
        "inference-saved",
        "GP401",
        (r"Inference tensors cannot be saved for backward",),
        "An inference tensor is used where autograd needs a normal tensor: an operator that records a node cannot "
        "save it for backward.",
        _CLONE,
        tensor="inference",
        caught=ERROR,
        parameter_fix=_BUILD,
    ),
    Refusal(
        "inference-modified",
        "GP401",
        (r"Inplace update to inference tensor outside InferenceMode",),
        "An inference tensor is modified in place outside inference mode. It has no version counter, so autograd "
        "could not notice the modification.",
        _CLONE,
        tensor="inference",
        caught=ERROR,
        parameter_fix=_BUILD,
    ),
    Refusal(
        "inference-version",
        "GP401",
        (r"Inference tensors do not track version counter", r"_unsafe_set_version\(\) on a tensor that does not have"),
        "The version counter of an inference tensor is asked for, and it has none.",
        "Ask `x.is_inference()` before the version is read.",
        tensor="inference",
        caught=ERROR,
    ),
    Refusal(
        "inference-requires-grad",
        "GP401",
        (r"Setting requires_grad=True on inference tensor outside InferenceMode",),
        "An inference tensor is to require grad outside inference mode. Autograd could record nothing about it.",
        "Clone the tensor outside inference mode first: `x = x.clone().requires_grad_()`.",
        tensor="inference",
        caught=ERROR,
        parameter_fix=_BUILD,
    ),
    Refusal(
        "inference-subclass-view",
        "GP303",
        (r"Cannot set version_counter for inference tensor",),
        "A tensor subclass that was created in normal mode is viewed in inference mode, which PyTorch does not allow.",
        "Use `torch.no_grad()` instead of inference mode around the view.",
        tensor="wrapper",
        story="wrapped",
        caught=ERROR,
    ),
)
