"""Syntax by which a program puts something into a container or an attribute."""

from __future__ import annotations

import ast

_STORING_METHODS = frozenset(
    (
        "append",
        "appendleft",
        "add",
        "insert",
        "extend",
        "update",
        "setdefault",
        "put",
        "put_nowait",
        "push",
        "__setitem__",
    )
)
_NAMING_METHODS = frozenset(("register_buffer", "setattr", "__setattr__", "setdefault", "__setitem__"))
_CONTAINERS = frozenset(("list", "dict", "set", "tuple", "deque", "OrderedDict", "defaultdict", "SimpleNamespace"))


def stores(node: ast.AST, name: str) -> bool:
    """Return whether a statement or call puts something into the container or attribute ``name``."""
    if isinstance(node, ast.Call):
        return _calls_store(node, name)
    if isinstance(node, ast.AugAssign):
        return is_named(node.target, name)
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        parts = [part for t in targets for part in (t.elts if isinstance(t, ast.Tuple | ast.List) else [t])]
        is_stored = any(isinstance(part, ast.Subscript | ast.Attribute) and is_named(part, name) for part in parts)
        return is_stored and not _is_empty(node.value)
    return False


def _calls_store(node: ast.Call, name: str) -> bool:
    method = node.func
    called = method.attr if isinstance(method, ast.Attribute) else getattr(method, "id", "")
    if isinstance(method, ast.Attribute) and called in _STORING_METHODS and is_named(method.value, name):
        return True
    if called in _NAMING_METHODS:
        return any(isinstance(argument, ast.Constant) and argument.value == name for argument in node.args[:2])
    is_class = called[:1].isupper()  # a record whose field it becomes
    return is_class and any(word.arg == name and not isinstance(word.value, ast.Constant) for word in node.keywords)


def _is_empty(value: ast.expr | None) -> bool:
    """Return whether an expression is a constant, an empty container or a call without arguments such as ``dict()``."""
    if isinstance(value, ast.Call):
        is_empty = not value.args and not value.keywords
        return is_empty and getattr(value.func, "id", getattr(value.func, "attr", "")) in _CONTAINERS
    if isinstance(value, ast.List | ast.Set | ast.Tuple):
        return not value.elts
    return value is None or isinstance(value, ast.Constant) or (isinstance(value, ast.Dict) and not value.keys)


def list_written(node: ast.AST) -> list[ast.expr]:
    """Return what a statement assigns to in place, or what it calls a method of."""
    if isinstance(node, ast.Assign):
        return [target for target in node.targets if isinstance(target, ast.Subscript)]
    if isinstance(node, ast.AugAssign):
        return [node.target]
    is_call = (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute)
    )
    return [node.value.func.value] if is_call else []  # type: ignore[attr-defined]


def is_named(node: ast.AST, name: str) -> bool:
    """Return whether an expression is the variable or attribute ``name``, or an item of it."""
    while isinstance(node, ast.Subscript):
        node = node.value
    if isinstance(node, ast.Call):  # history.setdefault(key, []).append(x)
        return isinstance(node.func, ast.Attribute) and is_named(node.func.value, name)
    return (isinstance(node, ast.Name) and node.id == name) or (isinstance(node, ast.Attribute) and node.attr == name)


def fills(node: ast.AST) -> bool:
    """Return whether what stores something adds it to what a container has."""
    if isinstance(node, ast.Assign):
        return isinstance(node.targets[0], ast.Subscript)
    if isinstance(node, ast.Call):
        return getattr(node.func, "attr", "") in _STORING_METHODS
    return not isinstance(node, ast.AnnAssign)
