"""Names of what is called, as the syntax has them."""

from __future__ import annotations

import ast


def called_name(call: ast.Call) -> str:
    """Return the last part of the name of what is called, or ""."""
    return (
        call.func.attr
        if isinstance(call.func, ast.Attribute)
        else call.func.id
        if isinstance(call.func, ast.Name)
        else ""
    )


def root_name(node: ast.AST) -> str:
    """Return the first part of a dotted name, or ""."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
