"""Workload: a name, and how to build the call in the process that measures it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

WorkloadCall = Callable[[], object]


@dataclass(frozen=True)
class Workload:
    """Named call. ``build`` makes its inputs and returns it; in inference mode its parameters become inference tensors."""

    name: str
    build: Callable[[], WorkloadCall]
