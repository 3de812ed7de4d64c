"""The rules that need no run, over the syntax tree of one file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.syntax import FunctionNode, walk_scope
from gradprobe.scan.names import INFERENCE, LEAVES_INFERENCE, OFF, OFF_MODE, ON_MODE, SETTER, ImportedNames
from gradprobe.scan.overrides import summarize_class

_AWAITS = (ast.Await, ast.AsyncFor, ast.AsyncWith)
# Of a manager's two methods the other undoes what the one does.
_ENTERS = ("__enter__", "__aenter__", "__init__")
# What makes a context manager or a fixture of a generator, which is meant to be suspended inside of its block.
_MEANT = ("contextmanager", "asynccontextmanager", "fixture")


@dataclass(frozen=True)
class ManagerUse:
    """A place where a manager stands in the source."""

    file: str
    line: int
    manager: str


class FileScanner:
    """One parsed file: its findings, where managers stand in it, and its classes."""

    def __init__(self, file: str, tree: ast.Module) -> None:
        imports, classes = [], []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports.append(node)
            elif isinstance(node, ast.ClassDef):
                classes.append(node)
        self.file, self.names = file, ImportedNames(imports)
        self.findings: list[Finding] = []
        self.sites: list[ManagerUse] = []
        self.classes = [summarize_class(file, node, self.names) for node in classes]
        if self.names.imports_torch:
            self._look(tree.body, None, [])

    def _look(
        self, body: list[ast.stmt], function: FunctionNode | None, open_blocks: list[tuple[str, ast.expr]]
    ) -> None:
        """Goes through statements of a scope, with the blocks of managers around them."""
        for index, statement in enumerate(body):
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                self._function(statement)
            elif isinstance(statement, ast.ClassDef):
                self._look(statement.body, None, [])
            elif isinstance(statement, ast.With | ast.AsyncWith):
                self._block(statement, function, open_blocks)
            elif isinstance(statement, ast.Expr):
                self._expression(statement, function, body[index + 1 :])
            for inner in _bodies(statement):
                self._look(inner, function, open_blocks)

    def _function(self, function: FunctionNode) -> None:
        inside: list[tuple[str, ast.expr]] = []
        for decorator in function.decorator_list:
            manager = self.names.manager(decorator)
            if manager is None:
                continue
            self._site(decorator, manager)
            if isinstance(function, ast.AsyncFunctionDef):
                self._add(
                    "GP702", decorator, f"@{manager} on this async def does nothing: its body runs later.", function
                )
            else:
                inside.append((self.names.switched(decorator), decorator))
        self._look(function.body, function, inside)

    def _block(
        self, block: ast.With | ast.AsyncWith, function: FunctionNode | None, around: list[tuple[str, ast.expr]]
    ) -> None:
        now = list(around)
        for item in block.items:
            manager = self.names.manager(item.context_expr)
            if manager is None:
                continue
            self._site(item.context_expr, manager)
            self._nested(item.context_expr, manager, now)
            if function is not None:
                self._suspended(block, item.context_expr, manager, function)
            now.append((self.names.switched(item.context_expr), item.context_expr))
        self._look(block.body, function, now)

    def _nested(self, expression: ast.expr, manager: str, around: list[tuple[str, ast.expr]]) -> None:
        switched = self.names.switched(expression)
        entry = next((each for each in reversed(around) if each[0] in (INFERENCE, LEAVES_INFERENCE)), None)
        inference = entry[1] if entry is not None and entry[0] == INFERENCE else None
        if switched == ON_MODE and inference is not None:
            message = f"{manager} has no effect inside inference mode: nothing is recorded."
            self._add(
                "GP103",
                expression,
                message,
                None,
                RelatedLine(self.file, inference.lineno, "inference mode entered here"),
            )
        elif around and switched in (ON_MODE, OFF_MODE, INFERENCE) and around[-1][0] == switched:
            outer = RelatedLine(self.file, around[-1][1].lineno, "in force since here")
            self._add("GP801", expression, f"{manager} sets the mode that is in force already.", None, outer)

    def _suspended(
        self, block: ast.With | ast.AsyncWith, expression: ast.expr, manager: str, function: FunctionNode
    ) -> None:
        """A mode that is held while a generator or a coroutine waits."""
        gives = next((n for statement in block.body for n in _with_itself(statement, (ast.Yield, ast.YieldFrom))), None)
        waits = next((n for statement in block.body for n in _with_itself(statement, _AWAITS)), None)
        if gives is not None and not self._is_meant(function) and not isinstance(function, ast.AsyncFunctionDef):
            related = RelatedLine(self.file, _line(gives), "yields here")
            self._add(
                "GP703",
                expression,
                f"{manager} stays in force for whoever consumes this generator.",
                function,
                related,
            )
        if isinstance(function, ast.AsyncFunctionDef) and (waits is not None or gives is not None):
            if self._is_meant(function) and waits is None:
                return
            related = RelatedLine(self.file, _line(waits or gives), "waits here")
            self._add("GP704", expression, f"{manager} stays in force for the thread's other tasks.", function, related)

    def _expression(self, statement: ast.Expr, function: FunctionNode | None, following: list[ast.stmt]) -> None:
        call = statement.value
        if not isinstance(call, ast.Call):
            return
        manager = self.names.manager(call)
        if manager in (*OFF, "enable_grad"):
            self._add("GP104", call, f"{manager}() is made here and never entered: it changes nothing.", function)
        elif function is not None and self._sets(call):
            self._site(call, "set_grad_enabled")
            if self._disables(call) and not self._is_undone(function, call):
                message = f"{function.name} switches gradients off and does not switch them on again."
                self._add("GP101", call, message, function)
        elif function is None and manager == "set_grad_enabled":
            self._site(call, manager)  # a program that does without gradients as a whole

    def _disables(self, call: ast.Call) -> bool:
        return bool(call.args) and isinstance(call.args[0], ast.Constant) and call.args[0].value is False

    def _is_undone(self, function: FunctionNode, call: ast.Call) -> bool:
        """Whether the function sets the mode once more, further down or in a ``finally``."""
        for node in ast.walk(function):
            is_later = isinstance(node, ast.Call) and node is not call and node.lineno >= call.lineno
            if isinstance(node, ast.Call) and is_later and self._sets(node):
                return True
        return function.name in _ENTERS

    def _sets(self, call: ast.Call) -> bool:
        return self.names.manager(call) == "set_grad_enabled" or self.names.full(call.func) == SETTER

    def _is_meant(self, function: FunctionNode) -> bool:
        for decorator in function.decorator_list:
            named = decorator.func if isinstance(decorator, ast.Call) else decorator
            if (self.names.full(named) or "").rpartition(".")[2] in _MEANT:
                return True
        return False

    def _site(self, expression: ast.expr, manager: str) -> None:
        self.sites.append(ManagerUse(self.file, expression.lineno, manager))

    def _add(self, rule: str, at: ast.expr, message: str, function: FunctionNode | None, *related: RelatedLine) -> None:
        name = None if function is None else function.name
        self.findings.append(Finding(rule, message, self.file, at.lineno, name, 1, related))


def _bodies(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    """The blocks of statements in a statement that opens no scope and no manager."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.With | ast.AsyncWith):
        return
    for name in ("body", "orelse", "finalbody"):
        body = getattr(statement, name, None)
        if isinstance(body, list):
            yield body
    for handler in getattr(statement, "handlers", ()):
        yield handler.body
    for case in getattr(statement, "cases", ()):
        yield case.body


def _with_itself(statement: ast.stmt, kinds: tuple[type[ast.AST], ...]) -> Iterator[ast.AST]:
    if isinstance(statement, kinds):
        yield statement
    if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield from walk_scope(statement, kinds)


def _line(node: ast.AST | None) -> int:
    return int(getattr(node, "lineno", 0))
