"""What is measured: a name, and how to make the call in the process that measures it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Call = Callable[[], object]


@dataclass(frozen=True)
class Workload:
    """``build`` makes the inputs and returns the call. Built inside inference mode, its parameters are inference tensors."""

    name: str
    build: Callable[[], Call]
    inputs: Callable[[Call], Any] = field(default=lambda call: call)
    """What a call may change, from the call: a structure of tensors and modules, or a function whose closure holds them."""
