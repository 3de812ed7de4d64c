"""The table of all refusals, and the words by which a message is recognised as one that may be among them."""

from __future__ import annotations

from gradprobe.refusals import (
    functions,
    graphs,
    inference_tensors,
    modifications,
    tensor_states,
    transforms,
    wrappers,
)
from gradprobe.refusals.refusal import NOTE, Refusal

REFUSALS: tuple[Refusal, ...] = (
    *inference_tensors.REFUSALS,
    *modifications.REFUSALS,
    *graphs.REFUSALS,
    *tensor_states.REFUSALS,
    *wrappers.REFUSALS,
    *transforms.REFUSALS,
    *functions.REFUSALS,
)
"""All rows; the first one that matches a message explains it."""

OTHER = Refusal(
    "other",
    "GP690",
    (),
    "PyTorch refuses an operation on account of gradients, for a reason that gradprobe does not know.",
    "Read the message of the exception; the related lines show where its tensors come from.",
    tensor="grad",
    caught=NOTE,
    severity=NOTE,
)
"""The row of all messages about autograd that no other row knows."""

BY_KEY: dict[str, Refusal] = {refusal.key: refusal for refusal in (*REFUSALS, OTHER)}

WORDS = (
    "grad",
    "Grad",
    "backward",
    "differentia",
    "derivative",
    "nference",
    "inplace",
    "in-place",
    "leaf",
    "leaves",
    "detach",
    "set_data",
    "written-to",
    "vmap",
    "forward AD",
    "saved tensor",
    "save_for_",
    "Function",
    "hook",
    "once_diff",
    "autograd",
    "checkpoint",
    "ready only once",
    "finished reduction",
    "bucket",
    "FSDP",
    "mark_",
    "expected Variable",
    "version",
    "dual Tensor",
    "Found dtype",
    "Parameter or None",
)
"""Words of which each message in the table has one; a message without any is not about autograd."""

_OF_AUTOGRAD = (
    "autograd",
    "require grad",
    "requires grad",
    "requires_grad",
    "require gradients",
    "requires gradient",
    "grad_fn",
    "inference tensor",
    "Inference tensor",
    "InferenceMode",
    "version counter",
    "leaf Variable",
    "leaf variable",
    "forward AD",
    "forward grad",
    "differentiable",
    "differentiation",
)


def find_refusal(message: str) -> Refusal | None:
    """Return the row that explains ``message``, ``OTHER`` if it is about autograd and in no row, else None."""
    if not any(word in message for word in WORDS):
        return None
    for refusal in REFUSALS:
        if refusal.matches(message):
            return refusal
    return OTHER if any(word in message for word in _OF_AUTOGRAD) else None
