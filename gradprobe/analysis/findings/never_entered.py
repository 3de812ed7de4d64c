"""Context managers that a file creates and never enters, as far as its source shows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from gradprobe.analysis.findings.source_fixes import advise_entering
from gradprobe.analysis.findings.syntax import FunctionNode, walk_scope
from gradprobe.analysis.imported_names import GRAD_DISABLING, ImportedNames

_MANAGERS = (*GRAD_DISABLING, "enable_grad")


@dataclass(frozen=True)
class NeverEntered:
    """A context manager that is created, or only named, and never entered."""

    manager: str
    at: ast.expr
    how: str
    """Use that the source makes of it."""
    fix: str
    """The edit."""


def find_never_entered(
    statement: ast.stmt, scope: ast.Module | FunctionNode, names: ImportedNames
) -> Iterator[NeverEntered]:
    """Yield the context managers that a statement of a scope creates and nothing enters.

    Args:
        statement: A statement of the scope, without the statements inside it.
        scope: The function, or the module.
        names: The names that the file imports.
    """
    if isinstance(statement, ast.Expr):
        unused = [*_find_unused(statement.value, scope, names)]
        if unused and (isinstance(statement.value, ast.Call | ast.Tuple) or not _is_tried(statement, scope)):
            yield from unused
    elif isinstance(statement, ast.Assign) and isinstance(scope, FunctionNode):
        manager = names.resolve_manager(statement.value) if isinstance(statement.value, ast.Call) else None
        variables = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        is_local = len(variables) == len(statement.targets)
        if manager in _MANAGERS and is_local and not any(_is_read(variable, scope) for variable in variables):
            how = f"assigns `{manager}()` to a variable that nothing uses"
            yield NeverEntered(manager, statement.value, how, _advise(manager, statement.value, scope))


def _find_unused(value: ast.expr, scope: ast.Module | FunctionNode, names: ImportedNames) -> Iterator[NeverEntered]:
    if isinstance(value, ast.Tuple):
        for each in value.elts:
            yield from _find_unused(each, scope, names)
        return
    manager = names.resolve_manager(value)
    if manager in _MANAGERS and manager is not None:
        how = f"creates `{manager}()`" if isinstance(value, ast.Call) else f"names `{manager}` without calling it"
        yield NeverEntered(manager, value, how, _advise(manager, value, scope))
    elif isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "__enter__":
        made = value.func.value
        if isinstance(made, ast.Call) and names.resolve_manager(made) == "inference_mode":
            how = "enters an `inference_mode()` object that is freed, and left, at once"
            yield NeverEntered("inference_mode", made, how, _advise("inference_mode", made, scope))


def _advise(manager: str, expression: ast.expr, scope: ast.Module | FunctionNode) -> str:
    return advise_entering(expression, scope, enables_grad=manager == "enable_grad")


def _is_tried(statement: ast.stmt, scope: ast.Module | FunctionNode) -> bool:
    """Return whether a statement is in a ``try``, as where a program finds out what its PyTorch has."""
    return any(statement in node.body for node in ast.walk(scope) if isinstance(node, ast.Try))


def _is_read(variable: str, scope: FunctionNode) -> bool:
    """Return whether a function or one inside it reads a variable; ``nonlocal`` and ``global`` count."""
    return any(
        (isinstance(node, ast.Name) and node.id == variable and not isinstance(node.ctx, ast.Store))
        or (isinstance(node, ast.Nonlocal | ast.Global) and variable in node.names)
        or (isinstance(node, ast.Name) and node.id in ("locals", "eval", "exec"))
        for node in ast.walk(scope)
    )


def iter_statements(scope: ast.Module | FunctionNode) -> Iterator[ast.stmt]:
    """Yield the statements of a scope, without those of functions and classes inside it."""
    for node in walk_scope(scope, ast.stmt):
        if isinstance(node, ast.stmt):
            yield node
