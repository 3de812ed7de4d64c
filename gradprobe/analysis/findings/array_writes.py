"""Lines that write in place to an array, found in the source: NumPy's writes are seen by nothing that watches PyTorch.

An array is followed by name: from the call that shares a tensor's memory to the variable or attribute it is assigned to,
over loops and views of it, to statements that write to it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradprobe.analysis.findings.syntax import ParsedFile

_MAX_LINES = 3
_MAX_ROUNDS = 4
_VIEWS = frozenset({"reshape", "view", "ravel", "transpose", "squeeze", "swapaxes", "T", "flat", "numpy", "detach"})
_WRITING_METHODS = frozenset({"fill", "sort", "put", "partition", "itemset", "setfield", "resize"})
_WRITING_FUNCTIONS = frozenset({"copyto", "put", "place", "putmask", "put_along_axis", "fill_diagonal", "shuffle"})
_WRAPPING = frozenset({"from_numpy", "frombuffer", "as_tensor", "asarray", "from_dlpack"})


def find_writes_after(source: ParsedFile, line: int) -> list[int]:
    """Return the lines that write to the array which the statement at ``line`` made of a tensor."""
    statement = _find_statement(source.tree, line)
    if statement is None:
        return []
    names = {_name_of(target) for target in _targets_of(statement)} - {None}
    function = source.find_function_at(line)
    if isinstance(statement, ast.Return) and function is not None:
        names.add(function.name)
    return _find_writes(source.tree, {name for name in names if name})


def find_writes_to_wrapped(source: ParsedFile) -> list[int]:
    """Return the lines that write to an array of which a tensor is made somewhere in the file."""
    calls = source.calls
    wrapped = [call.args[0] for call in calls if call.args and _name_of(call.func) in _WRAPPING]
    return _find_writes(source.tree, {name for name in map(_name_of, wrapped) if name})


def _find_writes(tree: ast.Module, names: set[str]) -> list[int]:
    for _ in range(_MAX_ROUNDS):
        more = {alias for node in ast.walk(tree) for alias in _iter_aliases(node, names)} - names
        if not more:
            break
        names |= more
    lines = sorted({getattr(node, "lineno", 0) for node in ast.walk(tree) if _writes(node, names)})
    return lines[:_MAX_LINES]


def _iter_aliases(node: ast.AST, names: set[str]) -> Iterator[str]:
    """Yield names that a statement gives to arrays which already have one, and to views of them."""
    if isinstance(node, ast.For | ast.comprehension):
        if _mentions(node.iter, names):
            yield from (child.id for child in ast.walk(node.target) if isinstance(child, ast.Name))
    elif isinstance(node, ast.Assign) and _is_view(node.value, names):
        targets = [target for target in node.targets if not isinstance(target, ast.Subscript)]
        yield from (name for target in targets if (name := _name_of(target)))


def _is_view(value: ast.expr, names: set[str]) -> bool:
    while True:
        if isinstance(value, ast.Call):
            name = _name_of(value.func)
            if isinstance(value.func, ast.Name) or name in names:
                return name in names
            if name not in _VIEWS or not isinstance(value.func, ast.Attribute):
                return False
            value = value.func.value
        elif isinstance(value, ast.Subscript) or (isinstance(value, ast.Attribute) and value.attr in _VIEWS - names):
            value = value.value
        else:
            return _name_of(value) in names


def _writes(node: ast.AST, names: set[str]) -> bool:
    if isinstance(node, ast.AugAssign):
        return _name_of(node.target) in names
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Subscript) and _name_of(target) in names for target in node.targets)
    if not isinstance(node, ast.Call):
        return False
    if any(word.arg == "out" and _name_of(word.value) in names for word in node.keywords):
        return True
    name = _name_of(node.func)
    if name in _WRITING_METHODS and isinstance(node.func, ast.Attribute) and _name_of(node.func.value) in names:
        return True
    return name in _WRITING_FUNCTIONS and bool(node.args) and _name_of(node.args[0]) in names


def _mentions(node: ast.AST, names: set[str]) -> bool:
    return any(isinstance(child, ast.Name | ast.Attribute) and _name_of(child) in names for child in ast.walk(node))


def _targets_of(statement: ast.stmt) -> list[ast.expr]:
    if isinstance(statement, ast.Assign):
        return statement.targets
    return [statement.target] if isinstance(statement, ast.AnnAssign | ast.AugAssign) else []


def _name_of(node: ast.AST) -> str | None:
    """Return the variable or attribute that an expression is, or is an item of."""
    while isinstance(node, ast.Subscript | ast.Starred):
        node = node.value
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def _find_statement(tree: ast.Module, line: int) -> ast.stmt | None:
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Return | ast.Expr)
        and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    return max(around, key=lambda node: node.lineno, default=None)
