"""Classes of operators that a detector looks at, each one containing those before it.

``call.h`` mirrors the numbers. ``OPS_ON_GRAD_TENSORS`` take a tensor that requires grad.
"""

from __future__ import annotations

NO_OPS, OPS_ON_GRAD_TENSORS, ALL_OPS = range(3)
