"""Constants that the native core's C++ sources mirror, compared with theirs when the core is loaded.

A core whose numbers differ would count under the wrong name or skip operators, without any error.
"""

from __future__ import annotations

from typing import Any

from gradprobe.capture.detectors.interest import ALL_OPS, NO_OPS, OPS_ON_GRAD_TENSORS, OPS_ON_GRAPH_RESULTS
from gradprobe.capture.location.frames import MODULE_CALL, OPTIMIZER, SKIPPED, USER
from gradprobe.capture.ops.attribution import PendingOp
from gradprobe.capture.ops.dispatch_keys import MAX_CALLER_FRAMES
from gradprobe.capture.ops.op_schema import COMPOSITE, KERNEL, PLAIN, PYTHON_ONLY
from gradprobe.recording.op_rows import BACKWARD, FORWARD, IN_OPTIMIZER

MIRRORED_CONSTANTS: dict[str, int] = {
    "PYTHON_ONLY": PYTHON_ONLY,
    "PLAIN": PLAIN,
    "KERNEL": KERNEL,
    "COMPOSITE": COMPOSITE,
    "NO_OPS": NO_OPS,
    "OPS_ON_GRAPH_RESULTS": OPS_ON_GRAPH_RESULTS,
    "OPS_ON_GRAD_TENSORS": OPS_ON_GRAD_TENSORS,
    "ALL_OPS": ALL_OPS,
    "SKIPPED": SKIPPED,
    "USER": USER,
    "MODULE_CALL": MODULE_CALL,
    "OPTIMIZER": OPTIMIZER,
    "FORWARD": FORWARD,
    "BACKWARD": BACKWARD,
    "IN_OPTIMIZER": IN_OPTIMIZER,
    "MAX_CALLER_FRAMES": MAX_CALLER_FRAMES,
    "PENDING_OP_WRITES": PendingOp._fields.index("writes"),
}
"""Values by the names under which the native module exports its own in ``CONSTANTS``."""


def find_mismatch(module: Any) -> str | None:
    """Return a description of the first constant on which the native ``module`` differs, or None."""
    compiled = getattr(module, "CONSTANTS", {})
    for name in sorted(MIRRORED_CONSTANTS.keys() | compiled.keys()):
        if compiled.get(name) != MIRRORED_CONSTANTS.get(name):
            return f"it has {name} = {compiled.get(name)}, gradprobe has {MIRRORED_CONSTANTS.get(name)}"
    return None
