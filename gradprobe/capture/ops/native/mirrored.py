"""Constants that the observer's C++ sources mirror, compared with theirs when the library is loaded.

A library whose numbers differ would count under the wrong name or show operators to the wrong detectors, without any error.
"""

from __future__ import annotations

from typing import Any

from gradprobe.capture.detectors.aliases import COMPARED_WITH_ITSELF, COPIED_ONTO_ITSELF, STACKED_ON_ITSELF
from gradprobe.capture.detectors.interest import ALL_OPS, NO_OPS, OPS_ON_GRAD_TENSORS
from gradprobe.capture.location.frames import ASKS_MODE, MODULE_CALL, OPTIMIZER, OWN, SKIPPED, USER
from gradprobe.recording import flow
from gradprobe.recording.events import (
    ACTION_MASK,
    ESCAPED_TENSORS,
    EXIT,
    INFERENCE_MODE,
    NOT_COUNTED,
    NOT_READ,
    NOWHERE,
    OP_BATCH,
    OP_ROWS,
    TALLY,
    THREAD,
)
from gradprobe.recording.op_rows import BACKWARD, FORWARD, IN_OPTIMIZER, OpCounts

MIRRORED_CONSTANTS: dict[str, int] = {
    "NO_OPS": NO_OPS,
    "OPS_ON_GRAD_TENSORS": OPS_ON_GRAD_TENSORS,
    "ALL_OPS": ALL_OPS,
    "SKIPPED": SKIPPED,
    "USER": USER,
    "MODULE_CALL": MODULE_CALL,
    "OPTIMIZER": OPTIMIZER,
    "OWN": OWN,
    "ASKS_MODE": ASKS_MODE,
    "FORWARD": FORWARD,
    "BACKWARD": BACKWARD,
    "IN_OPTIMIZER": IN_OPTIMIZER,
    **{
        name: getattr(flow, name)
        for name in (
            *("CARRIED", "WITHOUT_GRAD", "CUT_BY_NO_GRAD", "CUT_BY_INFERENCE", "CUT_BY_DETACH", "CUT_BY_DATA"),
            "NOT_DIFFERENTIABLE",
            "WRITTEN",
        )
    },
    "EXIT": EXIT,
    "INFERENCE_MODE": INFERENCE_MODE,
    "ESCAPED_TENSORS": ESCAPED_TENSORS,
    "THREAD": THREAD,
    "TALLY": TALLY,
    "NOWHERE": NOWHERE,
    "OP_ROWS": OP_ROWS,
    "OP_BATCH": OP_BATCH,
    "NOT_COUNTED": NOT_COUNTED,
    "NOT_READ": NOT_READ,
    "ACTION_MASK": ACTION_MASK,
    "COPIED_ONTO_ITSELF": COPIED_ONTO_ITSELF,
    "COMPARED_WITH_ITSELF": COMPARED_WITH_ITSELF,
    "STACKED_ON_ITSELF": STACKED_ON_ITSELF,
    "NUMBER_OF_COUNTS": len(OpCounts._fields),
    **{name.upper(): index for index, name in enumerate(OpCounts._fields)},
}
"""Values by the names under which the library exports its own in ``CONSTANTS``."""


def find_mismatch(module: Any) -> str | None:
    """Return a description of the first constant on which the native ``module`` differs, or None."""
    compiled = getattr(module, "CONSTANTS", {})
    for name in sorted(MIRRORED_CONSTANTS.keys() | compiled.keys()):
        if compiled.get(name) != MIRRORED_CONSTANTS.get(name):
            return f"it has {name} = {compiled.get(name)}, gradprobe has {MIRRORED_CONSTANTS.get(name)}"
    return None
