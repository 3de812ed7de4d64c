"""Imported names of a Python file, resolved to PyTorch's grad-mode context managers.

The scanner and the rules over recordings both ask here, so that they agree on aliases such as
``from torch import no_grad as ng``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from gradprobe.recording.events import MANAGERS

MANAGER_NAMES = frozenset(MANAGERS.values())
GRAD_DISABLING = ("no_grad", "inference_mode")
SET_GRAD_ENABLED_IN_C = "torch._C._set_grad_enabled"
_HOMES = ("torch", "torch.autograd", "torch.autograd.grad_mode")
"""Modules in which PyTorch offers the context managers."""


class ImportedNames:
    """Resolver of the names of one file to the dotted names that they were imported as."""

    def __init__(self, imports: Iterable[ast.Import | ast.ImportFrom]) -> None:
        self._imported_as: dict[str, str] = {}
        for node in imports:
            for alias in node.names:
                if isinstance(node, ast.ImportFrom):
                    if node.module and not node.level:
                        self._add_from(node.module, alias)
                elif alias.asname:
                    self._imported_as[alias.asname] = alias.name
                else:
                    package = alias.name.partition(".")[0]
                    self._imported_as[package] = package

    def _add_from(self, module: str, alias: ast.alias) -> None:
        if alias.name != "*":
            self._imported_as[alias.asname or alias.name] = f"{module}.{alias.name}"
        elif module in _HOMES:
            for name in MANAGER_NAMES:
                self._imported_as.setdefault(name, f"{module}.{name}")

    @property
    def imports_torch(self) -> bool:
        """Return whether the file imports anything of PyTorch."""
        return any(name == "torch" or name.startswith("torch.") for name in self._imported_as.values())

    def imports(self, name: str) -> bool:
        """Return whether an import binds a name."""
        return name in self._imported_as

    def resolve(self, expression: ast.expr) -> str | None:
        """Return the dotted name that an expression denotes, or None if the expression is not a name."""
        parts: list[str] = []
        while isinstance(expression, ast.Attribute):
            parts.append(expression.attr)
            expression = expression.value
        if not isinstance(expression, ast.Name):
            return None
        return ".".join([self._imported_as.get(expression.id, expression.id), *reversed(parts)])

    def resolve_manager(self, expression: ast.expr) -> str | None:
        """Return the name of PyTorch's context manager that an expression denotes or calls, or None."""
        name = self.resolve(expression.func if isinstance(expression, ast.Call) else expression)
        home, _, last = (name or "").rpartition(".")
        return last if last in MANAGER_NAMES and home in _HOMES else None

    def find_grad_decorator(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.expr | None:
        """Return the decorator of PyTorch's that disables grad for a function, or None."""
        decorators = function.decorator_list
        return next((each for each in decorators if self.resolve_manager(each) in GRAD_DISABLING), None)
