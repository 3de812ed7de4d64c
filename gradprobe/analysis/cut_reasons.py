"""Reasons why a graph is cut, in words, with the edit for each."""

from __future__ import annotations

from typing import NamedTuple

from gradprobe.recording.flow import (
    CUT_BY_DATA,
    CUT_BY_DETACH,
    CUT_BY_INFERENCE,
    CUT_BY_NO_GRAD,
    GRAD_SITE,
    NOT_DIFFERENTIABLE,
)


class CutReason(NamedTuple):
    """A reason: the end of a sentence about the operator that cuts, and the edit that avoids it."""

    how: str
    fix: str


CUT_REASONS = {
    CUT_BY_NO_GRAD: CutReason("runs under no_grad", "Run this line with grad enabled."),
    CUT_BY_INFERENCE: CutReason("runs in inference mode", "Run this line outside inference mode."),
    CUT_BY_DETACH: CutReason("detaches it", "Remove the `detach()`."),
    CUT_BY_DATA: CutReason("reads it through `.data`", "Use the tensor itself instead of `.data`."),
    NOT_DIFFERENTIABLE: CutReason("has no derivative", "Use a differentiable operation, or a surrogate gradient."),
}
"""Reasons by the index of the passage in ``PASSAGES``."""
MODE_CUTS = (CUT_BY_NO_GRAD, CUT_BY_INFERENCE)
"""Passages for which a mode is the reason."""
NOT_ENTERING = "Do not enter"
"""Beginning of the edit for a graph that a mode cuts."""
_DETACHED_GRADIENT = CutReason("computes gradients without a graph of their own", "Pass `create_graph=True`.")


def find_reason(op: str, passage: int) -> CutReason:
    """Return why an operator cuts the graph with this passage."""
    return _DETACHED_GRADIENT if op == GRAD_SITE else CUT_REASONS[passage]


def advise_not_entering(manager: str, file: str, line: int) -> str:
    """Return the edit for a graph that a mode cuts, which a manager entered at a line."""
    return f"{NOT_ENTERING} {manager} at {file.rsplit('/', 1)[-1]}:{line} when training."
