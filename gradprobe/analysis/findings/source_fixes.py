"""Fixes in the words of the source: the expressions and lines that are there, rather than ``x`` and ``loss``."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from gradprobe.analysis.findings.syntax import FunctionNode, ParsedFile, walk_scope

_MAX_EXPRESSION = 60
_SUSPENSIONS = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.Yield, ast.YieldFrom)
_USING_GRAPH = frozenset(("backward", "retain_grad", "zero_grad"))
_CONTAINERS = (ast.Tuple, ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp)
_LOOPS = ast.For | ast.AsyncFor | ast.While
_STORED_LAST = frozenset(("append", "appendleft", "add", "insert", "put", "put_nowait", "push", "register_buffer"))
"""Methods that store their last argument."""


def advise_entering(manager: ast.expr, scope: ast.Module | FunctionNode, *, enables_grad: bool) -> str:
    """Return the edit for a context manager that a scope creates and never enters."""
    block = f"`with {write_call(manager)}:`"
    needed = None if enables_grad else _find_use_of_graph(manager, scope)
    if needed is None:
        return f"Enter it: put the code that it is meant for into {block}."
    return (
        f"Remove it: `{ast.unparse(needed.func)}()` at line {needed.lineno} needs the graph that the code before it "
        f"builds. Enter {block} only around code whose result no backward pass uses."
    )


def advise_moving_inside(decorator: ast.expr, function: FunctionNode) -> str:
    """Return the edit for a decorator of PyTorch's on an ``async def``."""
    block = f"`with {write_call(decorator)}:`"
    if next(walk_scope(function, _SUSPENSIONS), None) is None:
        return f"Remove the decorator, and put the body of {function.name} into {block}."
    return (
        f"Remove the decorator, and enter {block} in the body of {function.name}, around the lines that compute but not "
        "around an `await` or `yield`."
    )


def advise_detaching(source: ParsedFile, line: int) -> str:
    """Return the edit for a statement that stores a tensor with its graph, "" if it does not show which tensor."""
    for statement in _list_statements(source.tree, line):
        stored = _find_stored(statement)
        if stored is None:
            continue
        verb = "Add" if isinstance(statement, ast.AugAssign) else "Store"
        detached = _write_detached(stored)
        if 0 < len(detached) <= _MAX_EXPRESSION:
            return f"{verb} `{detached}` instead: it has no graph."
        return f"{verb} tensors without their graphs: call `.detach()` on each that this line stores."
    return ""


def write_call(manager: ast.expr) -> str:
    """Return a context manager as the source writes it, with brackets."""
    return ast.unparse(manager if isinstance(manager, ast.Call) else ast.Call(manager, [], []))


def _write_detached(stored: ast.expr) -> str:
    """Return an expression that detaches the value of another, "" if that may be something else than a tensor."""
    if any(isinstance(node, _CONTAINERS) or _is_class(node) for node in ast.walk(stored)):
        return ""
    is_simple = isinstance(stored, ast.Name | ast.Attribute | ast.Subscript | ast.Call)
    text = ast.unparse(stored)
    return f"{text}.detach()" if is_simple else f"({text}).detach()"


def _is_class(node: ast.AST) -> bool:
    """Return whether an expression calls what its name says is a class."""
    if not isinstance(node, ast.Call):
        return False
    name = ast.unparse(node.func).rpartition(".")[2]
    return name[:1].isupper() or name in ("dict", "list", "tuple", "set")


def _find_use_of_graph(manager: ast.expr, scope: ast.Module | FunctionNode) -> ast.Call | None:
    """Return the first call that needs a graph after an expression, or around it in the same loop."""
    loops = [loop for loop in walk_scope(scope, ast.stmt) if isinstance(loop, _LOOPS) and _contains(loop, manager)]
    first = min([manager.lineno, *(loop.lineno for loop in loops)])
    calls = [node for node in walk_scope(scope, ast.Call) if isinstance(node, ast.Call) and node.lineno > first]
    needing = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in _USING_GRAPH]
    return min(needing, key=lambda call: (call.func.attr != "backward", call.lineno), default=None)  # type: ignore[attr-defined]


def _contains(loop: ast.For | ast.AsyncFor | ast.While, node: ast.expr) -> bool:
    return loop.lineno <= node.lineno <= (loop.end_lineno or loop.lineno)


def _list_statements(tree: ast.Module, line: int) -> Iterable[ast.stmt]:
    """Return the simple statements at a line."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Expr)
        and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]


def _find_stored(statement: ast.stmt) -> ast.expr | None:
    """Return the expression whose value a statement stores."""
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return statement.value
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or not call.args:
        return None
    return call.args[-1] if call.func.attr in _STORED_LAST else None
