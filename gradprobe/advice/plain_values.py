"""Values that certainly neither are tensors nor contain any, by the syntax of what computes them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from gradprobe.advice.program_model import Scope
from gradprobe.advice.tensor_names import PLAIN_ATTRIBUTES, PLAIN_CALLS, PLAIN_FUNCTIONS


def is_plain(node: ast.AST, scope: Scope) -> bool:
    """Return whether a value is certainly no tensor, and has none in it."""
    if isinstance(node, ast.Constant | ast.JoinedStr | ast.Lambda):
        return True
    if isinstance(node, ast.Attribute):
        return node.attr in PLAIN_ATTRIBUTES
    if isinstance(node, ast.Call):
        name = called_name(node)
        if isinstance(node.func, ast.Attribute):
            return name in PLAIN_CALLS or root_name(node.func) in (
                "time",
                "math",
                "os",
                "sys",
                "json",
                "logging",
                "random",
            )
        return name in PLAIN_FUNCTIONS and (name not in ("sum", "abs", "round") or _are_plain(node.args, scope))
    if isinstance(node, ast.BinOp):
        return _are_plain([node.left, node.right], scope)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Not) or is_plain(node.operand, scope)
    if isinstance(node, ast.Compare):
        return any(isinstance(op, ast.Is | ast.IsNot | ast.In | ast.NotIn) for op in node.ops) or _are_plain(
            [node.left, *node.comparators], scope
        )
    if isinstance(node, ast.IfExp):
        return _are_plain([node.body, node.orelse], scope)
    if isinstance(node, ast.Subscript):
        return is_plain(node.value, scope)
    if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp):
        return is_plain(node.elt, scope)
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return _are_plain(node.elts, scope)
    if isinstance(node, ast.Dict):
        return _are_plain(node.values, scope)
    return isinstance(node, ast.Name) and _is_plain_variable(node.id, scope)


def _is_plain_variable(name: str, scope: Scope) -> bool:
    """Return whether all that is ever assigned to a variable is plain, without looking at other variables."""
    values = [value for target, value in _list_assignments(scope) if target == name]
    return (
        bool(values)
        and name not in scope.parameters()
        and all(
            value is not None
            and not isinstance(value, ast.Name)
            and _mentions_no_name(value, name)
            and is_plain(value, scope)
            for value in values
        )
    )


def _are_plain(nodes: Iterable[ast.AST | None], scope: Scope) -> bool:
    return all(node is None or is_plain(node, scope) for node in nodes)


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


def _list_assignments(scope: Scope) -> Iterator[tuple[str, ast.AST | None]]:
    """Yield what the variables of a scope are assigned; None for a value that the syntax does not show."""
    for node in ast.walk(scope.node):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                for part in ast.walk(target):
                    if isinstance(part, ast.Name):
                        yield part.id, node.value if isinstance(target, ast.Name) else None
        elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.NamedExpr) and isinstance(node.target, ast.Name):
            yield node.target.id, node.value
        elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
            is_range = isinstance(node.iter, ast.Call) and called_name(node.iter) == "range"
            for part in ast.walk(node.target):
                if isinstance(part, ast.Name):
                    yield part.id, ast.Constant(0) if is_range else None
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            yield from ((part.id, None) for part in ast.walk(node.optional_vars) if isinstance(part, ast.Name))


def _mentions_no_name(value: ast.AST, name: str) -> bool:
    return not any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(value))
