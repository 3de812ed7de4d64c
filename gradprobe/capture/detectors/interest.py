"""Which operators a detector looks at, from none to all: of those between, those that take tensors which require grad, or
such of these as are results of a graph."""

from __future__ import annotations

NO_OPERATOR, THAT_TAKE_RESULTS, THAT_TAKE_GRADS, ALL_OPERATORS = range(4)
