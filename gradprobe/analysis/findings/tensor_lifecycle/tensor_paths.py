"""Paths to a kept tensor: the expressions of the source that lead to it, by the names of what holds it.

The tensor is followed from the attribute or variable that holds it, through variables of a function, items of containers
and returned values. What ``clone()`` and the like return is another tensor.
"""

from __future__ import annotations

import ast
import re

from gradprobe.analysis.findings.tensor_lifecycle.kept_inference import KeptTensor
from gradprobe.analysis.findings.tensor_lifecycle.program import Function, Program, last_name, walk_own

MODULE = 1_000
"""In place of a number of items: the module that holds the tensor, or one around it."""
_MODULE_METHODS = {
    **dict.fromkeys(("parameters", "buffers", "named_parameters", "named_buffers", "state_dict"), 1),
    **dict.fromkeys(("get_parameter", "get_buffer"), 0),
    **dict.fromkeys(("eval", "train", "to", "cuda", "cpu", "requires_grad_", "get_submodule"), MODULE),
}
_VIEWS = frozenset(
    (
        "view",
        "reshape",
        "t",
        "transpose",
        "permute",
        "squeeze",
        "unsqueeze",
        "expand",
        "expand_as",
        "flatten",
        "unflatten",
    )
    + (
        "narrow",
        "select",
        "chunk",
        "split",
        "unbind",
        "detach",
        "to",
        "contiguous",
        "float",
        "half",
        "bfloat16",
        "double",
    )
    + ("T", "mT", "data", "cpu", "cuda", "type_as", "get", "pop", "values", "items", "__getitem__")
)
_FILLING = ("append", "extend", "add", "insert", "setdefault", "update", "put")

Names = dict[str, int]
"""Variables that lead to the tensor, with the number of items from there to it."""


class TensorPaths:
    """Expressions of a program that lead to one kept tensor."""

    def __init__(self, program: Program, kept: KeptTensor) -> None:
        self.program, self.kept = program, kept
        self._classes = program.family({kept.owner}) if kept.owner in program.classes else set()
        self._modules = find_modules(kept)
        self.returning: dict[Function, int] = {}
        """Functions that return it, with the number of items from what they return to it."""

    @property
    def is_saved_by_module(self) -> bool:
        """True if a call of the module that holds the tensor saves it: a parameter, or anything of a library's module."""
        return self.kept.kind == "parameter" or self.kept.owner not in self.program.classes

    def is_guarded(self) -> bool:
        """Return whether the program asks what holds the tensor whether it is an inference tensor, to rebuild it."""
        return any(
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("is_inference", "is_inference_mode_enabled")
            and (
                self.level(node.func.value, function, {}) is not None
                or (node.func.attr == "is_inference_mode_enabled" and self._mentions(function))
            )
            for function in self.program.functions
            for node in walk_own(function.body)
        )

    def _mentions(self, function: Function) -> bool:
        return any(self._is_root(node, function) for node in walk_own(function.body) if isinstance(node, ast.expr))

    def find_stores(self) -> list[tuple[Function, int]]:
        """Return the lines that put something into the holder, each with its function."""
        found: list[tuple[Function, int]] = []
        for function in self.program.functions:
            for node in walk_own(function.body):
                if isinstance(node, ast.stmt) and any(
                    self._stores_into(target, function) for target in get_targets(node)
                ):
                    found.append((function, node.lineno))
                elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    names = [each.value for each in node.args[:1] if isinstance(each, ast.Constant)]
                    is_named = node.func.attr in ("register_buffer", "register_parameter") and names == [
                        self.kept.variable
                    ]
                    fills = node.func.attr in _FILLING
                    if is_named or (fills and self.level(node.func.value, function, {}) not in (None, 0)):
                        found.append((function, node.lineno))
        return found

    def is_renewed(self) -> bool:
        """Return whether a hook of a module assigns the tensor: each forward pass puts another one in its place."""
        return any(
            isinstance(node, ast.Assign)
            and node in function.body
            and self.program.is_forward_hook(function)
            and any(self._stores_into(target, function) for target in node.targets)
            for function in self.program.functions
            for node in function.body
        )

    def _stores_into(self, target: ast.expr, function: Function) -> bool:
        level = self.level(target, function, {})
        return level is not None and (level > 0 or not isinstance(target, ast.Subscript) or self.kept.depth > 0)

    def level(self, expression: ast.AST, function: Function, names: Names) -> int | None:
        """Return the number of items from an expression to the tensor, None if it does not lead there."""
        if isinstance(expression, ast.Name) and expression.id in names:
            return names[expression.id]
        if self._is_root(expression, function):
            return 0 if self.kept.kind == "cache" else self.kept.depth
        if self._is_module_around(expression, function):
            return MODULE
        if isinstance(expression, ast.Subscript):
            level = self.level(expression.value, function, names)
            return level if level is None or level == MODULE else max(level - 1, 0)
        if isinstance(expression, ast.Attribute) and expression.attr in _VIEWS:
            return self.level(expression.value, function, names)
        if isinstance(expression, ast.Call):
            return self._level_of_call(expression, function, names)
        if isinstance(expression, ast.IfExp):
            levels = [self.level(each, function, names) for each in (expression.body, expression.orelse)]
            return next((level for level in levels if level is not None), None)
        if isinstance(expression, ast.Starred | ast.NamedExpr | ast.Await):
            return self.level(expression.value, function, names)
        return None

    def _level_of_call(self, call: ast.Call, function: Function, names: Names) -> int | None:
        if isinstance(call.func, ast.Attribute):
            level = self.level(call.func.value, function, names)
            if level == MODULE:
                return _MODULE_METHODS.get(call.func.attr)
            if level is not None and (call.func.attr in _VIEWS or is_in_place(call.func.attr)):
                return max(level - 1, 0) if call.func.attr in ("get", "pop", "values") and level else level
            iterates = ("buffers", "parameters", "named_buffers", "named_parameters", "state_dict")
            if call.func.attr in iterates and self.kept.kind in ("buffer", "parameter"):
                owners = self.program.classes_of(call.func.value, function)
                if owners is not None and owners & self._classes:
                    return 1
        for called in self.program.resolve(call.func, function):
            if called in self.returning:
                return self.returning[called]
        return None

    def _is_root(self, expression: ast.AST, function: Function) -> bool:
        kept = self.kept
        if kept.kind in ("attribute", "buffer", "parameter"):
            if not isinstance(expression, ast.Attribute) or expression.attr != kept.variable:
                return False
            owners = self.program.classes_of(expression.value, function)
            return (
                bool(owners & self._classes)
                if owners is not None
                else not isinstance(expression.value, ast.Name) or (expression.value.id not in ("self", "torch", "cls"))
            )
        if kept.kind == "cache":
            return isinstance(expression, ast.Call) and last_name(expression.func) == kept.variable
        if isinstance(expression, ast.Attribute):
            return kept.kind == "global" and expression.attr == kept.variable and self._is_module(expression.value)
        if not isinstance(expression, ast.Name) or expression.id != kept.variable:
            return False
        if kept.kind == "global":
            return not _is_local(expression.id, function) and self._is_of_file(expression, function)
        return function.name == kept.owner or (function.outer is not None and self._is_outer(function))

    def _is_module_around(self, expression: ast.AST, function: Function) -> bool:
        if isinstance(expression, ast.Attribute):
            return expression.attr in self._modules
        return (
            isinstance(expression, ast.Name)
            and expression.id in self._modules
            and self._is_of_file(expression, function)
        )

    def _is_of_file(self, name: ast.Name, function: Function) -> bool:
        """Return whether a global variable is that of the holder: it is of the same file, or imported."""
        is_imported = function.file.names.resolve(name) != name.id
        return not self.kept.file or function.file.file == self.kept.file or is_imported

    def _is_outer(self, function: Function) -> bool:
        """Return whether a function shares the variables of the one in which the holding function is defined."""
        holding = self.program.by_name.get(self.kept.owner, ())
        around = {f.outer for f in holding}
        return function in around or function.outer in around

    @staticmethod
    def _is_module(expression: ast.expr) -> bool:
        return isinstance(expression, ast.Name) and expression.id not in ("self", "cls", "torch")


def find_modules(kept: KeptTensor) -> set[str]:
    """Return the variables and attributes that lead to the module which holds a parameter or buffer."""
    if kept.kind not in ("buffer", "parameter"):
        return set()
    names = re.findall(r"[A-Za-z_]\w*", re.sub(r"\[.*?\]", "", kept.holder))
    return {name for name in names[:-1] if not name[0].isupper()}


def is_in_place(name: str) -> bool:
    """Return whether an operator of this name modifies its first operand."""
    return name.endswith("_") and not name.endswith("__") and len(name) > 1 and name != "_"


def _is_local(name: str, function: Function) -> bool:
    """Return whether a name is a variable of a function rather than of its module."""
    if isinstance(function.node, ast.Module):
        return False
    if name in function.parameters:
        return True
    if any(isinstance(node, ast.Global) and name in node.names for node in walk_own(function.body)):
        return False
    stored = (
        node for node in walk_own(function.body) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    )
    return any(node.id == name for node in stored)


def get_targets(node: ast.AST) -> list[ast.expr]:
    """Return what a statement assigns to."""
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign | ast.AugAssign) else []
