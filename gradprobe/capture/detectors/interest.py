"""Which operators a detector looks at, from none to all: of those between, those that take tensors which require grad, or
such of these as are results of a graph."""

from __future__ import annotations

NO_OPS, OPS_ON_GRAPH_RESULTS, OPS_ON_GRAD_TENSORS, ALL_OPS = range(4)
