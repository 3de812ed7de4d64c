"""Modes that context managers set, as far as the source shows."""

from __future__ import annotations

import ast
from enum import Enum, auto

from gradprobe.analysis.imported_names import ImportedNames


class SetMode(Enum):
    """Mode that an expression such as ``torch.no_grad()`` sets."""

    GRAD = auto()
    NO_GRAD = auto()
    INFERENCE = auto()
    MAYBE_NORMAL = auto()
    """The value of the argument decides at run time whether inference mode is left."""
    UNKNOWN = auto()


def read_set_mode(names: ImportedNames, expression: ast.expr) -> SetMode:
    """Return the mode that an expression sets, ``SetMode.UNKNOWN`` if the source does not show it."""
    manager = names.resolve_manager(expression)
    if manager in ("enable_grad", "no_grad"):
        return SetMode.GRAD if manager == "enable_grad" else SetMode.NO_GRAD
    argument = _first_argument(expression)
    if manager == "inference_mode":
        return SetMode.INFERENCE if argument is None or argument is True else SetMode.MAYBE_NORMAL
    if manager == "set_grad_enabled" and isinstance(argument, bool):
        return SetMode.GRAD if argument else SetMode.NO_GRAD
    return SetMode.UNKNOWN


def _first_argument(expression: ast.expr) -> object:
    """Return the first argument of a call: the value of a literal, Ellipsis for others, None for none."""
    if not isinstance(expression, ast.Call):
        return None
    given = [*expression.args, *(keyword.value for keyword in expression.keywords)]
    if not given:
        return None
    return given[0].value if isinstance(given[0], ast.Constant) else ...
