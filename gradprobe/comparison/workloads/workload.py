"""What is measured: a name, and how to make the call in the process that measures it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

WorkloadCall = Callable[[], object]


@dataclass(frozen=True)
class Workload:
    """``build`` makes the inputs and returns the call. Built in inference mode, its parameters are inference tensors."""

    name: str
    build: Callable[[], WorkloadCall]
