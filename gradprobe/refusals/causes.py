"""Causes of a missing graph, with the edit for each: why the result of an operator has no history."""

from __future__ import annotations

from typing import NamedTuple


class Cause(NamedTuple):
    """A sentence about a cause, and the edit for it."""

    why: str
    fix: str


CAUSES = {
    "mode": Cause(
        "It was computed with grad disabled.",
        "Compute it outside of the block or function that disables grad, or end that block before the line which "
        "computes it.",
    ),
    "inference": Cause(
        "It is an inference tensor, of which autograd records nothing.",
        "Compute it outside inference mode; clone what comes out of inference mode before it is used.",
    ),
    "detach": Cause(
        "It was computed from a detached tensor.",
        "Use the tensor itself where its gradient is wanted, and detach only what shall be constant.",
    ),
    "values": Cause(
        "It was made of values without history, such as numbers or an array.",
        "Keep the tensors and combine them with tensor operations (`torch.stack(losses).sum()`), without `.item()` or "
        "`torch.tensor(...)` in between.",
    ),
    "frozen": Cause(
        "It was computed by a module none of whose parameters requires grad.",
        "Let the parameters that shall be trained require grad (`requires_grad_(True)`), or compute the loss from a "
        "part that is trained.",
    ),
    "frozen since": Cause(
        "The same lines gave it a graph earlier, but the parameters do not require grad any more.",
        "Call `requires_grad_(True)` on them again before they are trained, as each time after they have been frozen.",
    ),
    "operator": Cause(
        "An operator whose result has no derivative, such as a comparison or `argmax`, was applied to tensors that "
        "require grad.",
        "Use a differentiable operation there, such as `softmax` in the place of `argmax`, or detach on purpose and "
        "train another way.",
    ),
    "running-statistics": Cause(
        "A batch normalization in training mode updates its running statistics in place, which belong to no single input.",
        "Call `torch.func.replace_all_batch_norm_modules_(model)` before, normalize by groups or layers, or call "
        "`model.eval()`.",
    ),
}
