"""Which names of a file are PyTorch's mode managers, through its imports and their aliases."""

from __future__ import annotations

import ast
from collections.abc import Iterable

MANAGERS = ("no_grad", "inference_mode", "enable_grad", "set_grad_enabled")
OFF = ("no_grad", "inference_mode")
SETTER = "torch._C._set_grad_enabled"
ON_MODE, OFF_MODE, INFERENCE, LEAVES_INFERENCE, UNKNOWN = "on", "off", "inference", "leaves inference", "unknown"
_MODULES = ("torch", "torch.autograd", "torch.autograd.grad_mode")


class ImportedNames:
    """Resolves the names of one file to those of what they were imported as."""

    def __init__(self, imports: Iterable[ast.Import | ast.ImportFrom]) -> None:
        self._known: dict[str, str] = {}
        for node in imports:
            for alias in node.names:
                if isinstance(node, ast.ImportFrom):
                    if node.module and not node.level:
                        self._known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                elif alias.asname:
                    self._known[alias.asname] = alias.name
                else:
                    package = alias.name.partition(".")[0]
                    self._known[package] = package

    @property
    def imports_torch(self) -> bool:
        """Whether anything of PyTorch is imported."""
        return any(name == "torch" or name.startswith("torch.") for name in self._known.values())

    def full(self, expression: ast.expr) -> str | None:
        """The dotted name that an expression stands for; None for what is no name."""
        parts: list[str] = []
        while isinstance(expression, ast.Attribute):
            parts.append(expression.attr)
            expression = expression.value
        if not isinstance(expression, ast.Name):
            return None
        return ".".join([self._known.get(expression.id, expression.id), *reversed(parts)])

    def manager(self, expression: ast.expr) -> str | None:
        """The manager that an expression names or calls."""
        name = self.full(expression.func if isinstance(expression, ast.Call) else expression)
        owner, _, last = (name or "").rpartition(".")
        return last if last in MANAGERS and owner in _MODULES else None

    def switched(self, expression: ast.expr) -> str:
        """What a manager sets: ``OFF_MODE``, ``ON_MODE``, ``INFERENCE``, or what only a run could tell: ``UNKNOWN``, and
        ``LEAVES_INFERENCE`` where it may be the end of inference mode."""
        manager = self.manager(expression)
        if manager in ("enable_grad", "no_grad"):
            return ON_MODE if manager == "enable_grad" else OFF_MODE
        argument = _argument(expression)
        if manager == "inference_mode":
            return INFERENCE if argument is None or argument is True else LEAVES_INFERENCE
        if manager == "set_grad_enabled" and isinstance(argument, bool):
            return ON_MODE if argument else OFF_MODE
        return UNKNOWN


def _argument(expression: ast.expr) -> object:
    """The first argument of a call where it is written out, Ellipsis where it is not, None where there is none."""
    if not isinstance(expression, ast.Call):
        return None
    given = [*expression.args, *(keyword.value for keyword in expression.keywords)]
    if not given:
        return None
    return given[0].value if isinstance(given[0], ast.Constant) else ...
