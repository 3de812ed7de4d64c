"""Classes of operators that a detector looks at, each one containing those before it.

``core.cpp`` mirrors the numbers. ``OPS_ON_GRAD_TENSORS`` take a tensor that requires grad, ``OPS_ON_GRAPH_RESULTS`` one
that is also the result of a graph.
"""

from __future__ import annotations

NO_OPS, OPS_ON_GRAPH_RESULTS, OPS_ON_GRAD_TENSORS, ALL_OPS = range(4)
