"""Rules that need only the syntax tree of one file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.never_entered import find_never_entered
from gradprobe.analysis.findings.source_fixes import advise_moving_inside, write_call
from gradprobe.analysis.findings.syntax import FunctionNode, walk_scope
from gradprobe.analysis.imported_names import SET_GRAD_ENABLED_IN_C, ImportedNames
from gradprobe.scan.overrides import summarize_class
from gradprobe.scan.set_modes import SetMode, read_set_mode

_AWAITS = (ast.Await, ast.AsyncFor, ast.AsyncWith)
# The exit method of a context manager undoes what these do.
_ENTERING_METHODS = ("__enter__", "__aenter__", "__init__")
# Decorators that make a context manager or a fixture of a generator, which is meant to be suspended inside its block.
_CERTAIN_MODES = (SetMode.GRAD, SetMode.NO_GRAD, SetMode.INFERENCE)
_SUSPENDING_DECORATORS = ("contextmanager", "asynccontextmanager", "fixture")


@dataclass(frozen=True)
class ManagerUse:
    """A use of a context manager in the source."""

    file: str
    line: int
    manager: str


class FileScanner:
    """Scanner of one parsed file: collects its findings, its uses of context managers and its classes."""

    def __init__(self, file: str, tree: ast.Module) -> None:
        imports, classes = [], []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports.append(node)
            elif isinstance(node, ast.ClassDef):
                classes.append(node)
        self.file, self._tree, self.names = file, tree, ImportedNames(imports)
        self.findings: list[Finding] = []
        self.manager_uses: list[ManagerUse] = []
        self.classes = [summarize_class(file, node, self.names) for node in classes]
        if self.names.imports_torch:
            self._scan_body(tree.body, None, [])

    def _scan_body(
        self, body: list[ast.stmt], function: FunctionNode | None, open_blocks: list[tuple[SetMode, ast.expr]]
    ) -> None:
        """Scan the statements of a scope, given the mode blocks around them."""
        for statement in body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                self._scan_function(statement)
            elif isinstance(statement, ast.ClassDef):
                self._scan_body(statement.body, None, [])
            elif isinstance(statement, ast.With | ast.AsyncWith):
                self._scan_block(statement, function, open_blocks)
            elif isinstance(statement, ast.Expr):
                self._scan_expression(statement, function)
            for unused in find_never_entered(statement, function or self._tree, self.names):
                message = f"This {unused.how}: no block is entered, so it has no effect."
                self._add("GP104", unused.at, message, function, fix=unused.fix)
            for inner in _iter_bodies(statement):
                self._scan_body(inner, function, open_blocks)

    def _scan_function(self, function: FunctionNode) -> None:
        inside: list[tuple[SetMode, ast.expr]] = []
        for decorator in function.decorator_list:
            manager = self.names.resolve_manager(decorator)
            if manager is None:
                continue
            self._add_use(decorator, manager)
            if isinstance(function, ast.AsyncFunctionDef):
                message = f"`@{write_call(decorator)}` has no effect on the body of this async def, which runs later."
                self._add("GP702", decorator, message, function, fix=advise_moving_inside(decorator, function))
            else:
                inside.append((read_set_mode(self.names, decorator), decorator))
        self._scan_body(function.body, function, inside)

    def _scan_block(
        self, block: ast.With | ast.AsyncWith, function: FunctionNode | None, around: list[tuple[SetMode, ast.expr]]
    ) -> None:
        now = list(around)
        for item in block.items:
            manager = self.names.resolve_manager(item.context_expr)
            if manager is None:
                continue
            self._add_use(item.context_expr, manager)
            self._check_nesting(item.context_expr, manager, now)
            if function is not None:
                self._check_suspension(block, item.context_expr, manager, function)
            now.append((read_set_mode(self.names, item.context_expr), item.context_expr))
        self._scan_body(block.body, function, now)

    def _check_nesting(self, expression: ast.expr, manager: str, around: list[tuple[SetMode, ast.expr]]) -> None:
        mode = read_set_mode(self.names, expression)
        entry = next((each for each in reversed(around) if each[0] in (SetMode.INFERENCE, SetMode.MAYBE_NORMAL)), None)
        inference = entry[1] if entry is not None and entry[0] is SetMode.INFERENCE else None
        if mode is SetMode.GRAD and inference is not None:
            message = f"{manager} has no effect inside inference mode: no autograd node is recorded."
            self._add(
                "GP103",
                expression,
                message,
                None,
                RelatedLine(self.file, inference.lineno, "inference mode entered here"),
            )
        elif around and mode in _CERTAIN_MODES and around[-1][0] is mode:
            outer = RelatedLine(self.file, around[-1][1].lineno, "mode entered here")
            self._add("GP801", expression, f"{manager} sets the mode that is already active.", None, outer)

    def _check_suspension(
        self, block: ast.With | ast.AsyncWith, expression: ast.expr, manager: str, function: FunctionNode
    ) -> None:
        """Report a mode that is held open while a generator or a coroutine is suspended."""
        is_async = isinstance(function, ast.AsyncFunctionDef)
        is_meant = self._is_meant_to_suspend(function)
        yielding = _find_first(block.body, (ast.Yield, ast.YieldFrom))
        awaiting = _find_first(block.body, _AWAITS)
        if yielding is not None and not is_meant and not is_async:
            related = RelatedLine(self.file, _get_line(yielding), "yields here")
            message = f"{manager} stays active in the code that consumes this generator."
            self._add("GP703", expression, message, function, related)
        elif is_async and (awaiting is not None or (yielding is not None and not is_meant)):
            related = RelatedLine(self.file, _get_line(awaiting or yielding), "waits here")
            message = f"{manager} stays active in other tasks of the thread while this one waits."
            self._add("GP704", expression, message, function, related)

    def _scan_expression(self, statement: ast.Expr, function: FunctionNode | None) -> None:
        call = statement.value
        if not isinstance(call, ast.Call):
            return
        manager = self.names.resolve_manager(call)
        if function is not None and self._sets_grad_mode(call):
            self._add_use(call, "set_grad_enabled")
            if self._disables_grad(call) and not self._is_undone(function, call):
                message = f"{function.name} calls set_grad_enabled(False) and returns without restoring the mode."
                self._add("GP101", call, message, function)
        elif function is None and manager == "set_grad_enabled":
            self._add_use(call, manager)  # the user's program disables grad as a whole

    def _disables_grad(self, call: ast.Call) -> bool:
        return bool(call.args) and isinstance(call.args[0], ast.Constant) and call.args[0].value is False

    def _is_undone(self, function: FunctionNode, call: ast.Call) -> bool:
        """Return whether the function sets the mode again, further down or in a ``finally`` block."""
        for node in ast.walk(function):
            is_later = isinstance(node, ast.Call) and node is not call and node.lineno >= call.lineno
            if isinstance(node, ast.Call) and is_later and self._sets_grad_mode(node):
                return True
        return function.name in _ENTERING_METHODS

    def _sets_grad_mode(self, call: ast.Call) -> bool:
        return (
            self.names.resolve_manager(call) == "set_grad_enabled"
            or self.names.resolve(call.func) == SET_GRAD_ENABLED_IN_C
        )

    def _is_meant_to_suspend(self, function: FunctionNode) -> bool:
        for decorator in function.decorator_list:
            named = decorator.func if isinstance(decorator, ast.Call) else decorator
            if (self.names.resolve(named) or "").rpartition(".")[2] in _SUSPENDING_DECORATORS:
                return True
        return False

    def _add_use(self, expression: ast.expr, manager: str) -> None:
        self.manager_uses.append(ManagerUse(self.file, expression.lineno, manager))

    def _add(
        self,
        rule: str,
        at: ast.expr,
        message: str,
        function: FunctionNode | None,
        *related: RelatedLine,
        fix: str = "",
    ) -> None:
        name = None if function is None else function.name
        self.findings.append(Finding(rule, message, self.file, at.lineno, name, 1, related, fix))


def _iter_bodies(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    """Yield the bodies of a statement that opens neither a scope nor a mode block."""
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


def _find_first(body: list[ast.stmt], kinds: tuple[type[ast.AST], ...]) -> ast.AST | None:
    """Return the first node of some kinds in statements of a scope."""
    return next((node for statement in body for node in _walk_statement(statement, kinds)), None)


def _walk_statement(statement: ast.stmt, kinds: tuple[type[ast.AST], ...]) -> Iterator[ast.AST]:
    if isinstance(statement, kinds):
        yield statement
    if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield from walk_scope(statement, kinds)


def _get_line(node: ast.AST | None) -> int:
    return int(getattr(node, "lineno", 0))
