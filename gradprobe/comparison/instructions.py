"""Instruction counts."""

from typing import Any


def added(outcome: Any, sources: Any, settings: Any, tell: Any) -> Any:
    return outcome
