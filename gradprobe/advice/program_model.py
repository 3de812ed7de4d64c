"""The program's source as functions and statements, with the scopes that its names belong to."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from gradprobe.advice.line_trace import FIRST_VIRTUAL_LINE, list_parts, part_number
from gradprobe.advice.manager_sites import SourceFile

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_COMPOUND = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
Key = tuple[str, str, str]
"""A place that tensors can be in: a variable of a scope, an attribute by its name, or the result of a function."""


@dataclass(eq=False)
class Scope:
    """A function, or the top of a module or class."""

    file: SourceFile
    name: str
    parent: Scope | None
    node: ast.AST
    class_name: str = ""
    variables: set[str] = field(default_factory=set)
    declared_global: set[str] = field(default_factory=set)

    @property
    def function(self) -> FunctionNode | None:
        """The function, or None for a module or a class."""
        return self.node if isinstance(self.node, FunctionNode) else None

    @property
    def key(self) -> str:
        """A text that identifies the scope."""
        return f"{self.file.file}:{self.name}"

    def resolve(self, name: str) -> Key:
        """Return the place of the variable that ``name`` means here."""
        scope: Scope | None = self
        while scope is not None and scope.parent is not None:
            visible = scope is self or scope.function is not None
            if visible and name in scope.variables and name not in scope.declared_global:
                return ("variable", scope.key, name)
            scope = scope.parent
        return ("variable", "global", name)

    def parameters(self) -> list[str]:
        """Return the names of the parameters in the order of the call."""
        if self.function is None:
            return []
        given = self.function.args
        return [each.arg for each in (*given.posonlyargs, *given.args)]

    def parameters_around(self) -> set[str]:
        """Return the names of the parameters of the function and of those that it is defined in."""
        names: set[str] = set()
        scope: Scope | None = self
        while scope is not None:
            names.update(scope.parameters())
            scope = scope.parent
        return names


@dataclass(eq=False)
class Statement:
    """A simple statement, or the head of a compound one."""

    scope: Scope
    node: ast.stmt
    expressions: Sequence[ast.AST]
    last_line: int
    modes: tuple[str, ...]
    """Managers whose blocks or decorators are around it, outermost first."""

    @property
    def line(self) -> int:
        """The line where it begins."""
        return self.node.lineno


class ProgramModel:
    """All functions and statements of the program's files, and which of them ran."""

    def __init__(self, files: Sequence[SourceFile]) -> None:
        self.files = {file.file: file for file in files}
        self.statements: list[Statement] = []
        self.scopes: list[Scope] = []
        self.modules: set[str] = set()
        """Names of classes that derive from a module of PyTorch, as far as the source shows."""
        for file in files:
            scope = Scope(file, "", None, file.tree)
            self.scopes.append(scope)
            self._add_body(scope, file.tree.body, ())
        self.by_name: dict[str, list[Scope]] = {}
        for scope in self.scopes:
            if scope.function is not None:
                self.by_name.setdefault(scope.function.name, []).append(scope)
        self.classes = {
            node.name: node for file in files for node in ast.walk(file.tree) if isinstance(node, ast.ClassDef)
        }

    @cached_property
    def passed_functions(self) -> list[Scope]:
        """Functions that other functions of the program get as arguments, by a call or as their decorators."""
        passed: set[str] = set()
        for statement in self.statements:
            for expression in statement.expressions:
                for part in ast.walk(expression):
                    if isinstance(part, ast.Call):
                        given = [*part.args, *(keyword.value for keyword in part.keywords)]
                        passed.update(each.id for each in given if isinstance(each, ast.Name))
                        passed.update(each.attr for each in given if isinstance(each, ast.Attribute))
        return [
            scope for scope in self.scopes if scope.function is not None and self._is_passed(scope.function, passed)
        ]

    def _is_passed(self, function: FunctionNode, passed: set[str]) -> bool:
        own = {part.id for d in function.decorator_list for part in ast.walk(d) if isinstance(part, ast.Name)}
        return function.name in passed or not own.isdisjoint(self.by_name)

    def list_fields(self, name: str) -> list[str]:
        """Return the annotated fields of a class of the program in the order of its constructor."""
        node = self.classes.get(name)
        body = node.body if node is not None else []
        return [e.target.id for e in body if isinstance(e, ast.AnnAssign) and isinstance(e.target, ast.Name)]

    def _add_body(self, scope: Scope, body: Sequence[ast.stmt], modes: tuple[str, ...]) -> None:
        for node in body:
            if isinstance(node, _DEFINITIONS):
                self._add_definition(scope, node)
                continue
            self._add_statement(scope, node, modes)
            inner = modes
            if isinstance(node, ast.With | ast.AsyncWith):
                inner = (*modes, *_list_managers(scope.file, [item.context_expr for item in node.items]))
            for part in _list_bodies(node):
                self._add_body(scope, part, inner)

    def _add_definition(self, scope: Scope, node: FunctionNode | ast.ClassDef) -> None:
        scope.variables.add(node.name)
        name = f"{scope.name}.{node.name}" if scope.name else node.name
        class_name = node.name if isinstance(node, ast.ClassDef) else scope.class_name if scope.function is None else ""
        inner = Scope(scope.file, name, scope, node, class_name)
        self.scopes.append(inner)
        modes: tuple[str, ...] = ()
        if not isinstance(node, ast.ClassDef):
            given = node.args
            inner.variables.update(
                each.arg
                for each in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg)
                if each
            )
            modes = _list_managers(scope.file, node.decorator_list)
        self._add_body(inner, node.body, modes)

    def _add_statement(self, scope: Scope, node: ast.stmt, modes: tuple[str, ...]) -> None:
        if isinstance(node, ast.Global):
            scope.declared_global.update(node.names)
        expressions = list(_list_own_expressions(node))
        last = node.lineno if isinstance(node, _COMPOUND) else node.end_lineno or node.lineno
        for expression in expressions:
            last = max(last, getattr(expression, "end_lineno", None) or last)
            for part in ast.walk(expression):
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store | ast.Del):
                    scope.variables.add(part.id)
        self.statements.append(Statement(scope, node, expressions, last, modes))


class Coverage:
    """The lines that ran, each with the modes that it ran under, and the parts of lines that did not run."""

    def __init__(self, lines: dict[tuple[str, int], set[int]], files: Sequence[SourceFile]) -> None:
        self._lines = lines
        self._parts: dict[int, bool] = {}
        for file in files:
            numbered = list_parts(file.tree)
            ran = {part_number(line) for (name, line) in lines if name == file.file and line >= FIRST_VIRTUAL_LINE}
            self._parts.update({id(part): number in ran for number, (part, _) in enumerate(numbered)})

    def modes(self, statement: Statement) -> set[int]:
        """Return the modes under which a statement ran; empty if it did not run."""
        found: set[int] = set()
        for line in range(statement.line, statement.last_line + 1):
            found |= self._lines.get((statement.scope.file.file, line), set())
        return found

    def has_run(self, statement: Statement) -> bool:
        """Return whether a statement ran. What compiles to nothing counts as if it had."""
        if isinstance(statement.node, ast.Pass | ast.Global | ast.Nonlocal | ast.Import | ast.ImportFrom | ast.Try):
            return True
        if isinstance(statement.node, ast.Expr) and isinstance(statement.node.value, ast.Constant):
            return True
        return bool(self.modes(statement))

    def list_unrun_parts(self, statement: Statement) -> Iterator[ast.expr]:
        """Yield the outermost parts of a statement's expressions that did not run although the statement did."""
        waiting: list[ast.AST] = list(statement.expressions)
        while waiting:
            node = waiting.pop()
            is_unrun = self._parts.get(id(node)) is False and not self._has_run_inside(node)
            if is_unrun and isinstance(node, ast.expr):
                yield node
                continue
            waiting.extend(ast.iter_child_nodes(node))

    def _has_run_inside(self, node: ast.AST) -> bool:
        """Return whether a part inside ``node`` ran: its own line may be hidden behind theirs."""
        return any(self._parts.get(id(inner), False) for inner in ast.walk(node) if inner is not node)


def _list_bodies(node: ast.stmt) -> Iterator[Sequence[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        part = getattr(node, name, None)
        if isinstance(part, list):
            yield part
    for handler in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        yield handler.body


def _list_own_expressions(node: ast.stmt) -> Iterator[ast.AST]:
    """Yield the expressions that a statement evaluates itself, without those of the statements inside it."""
    if not isinstance(node, _COMPOUND):
        yield from ast.iter_child_nodes(node)
        return
    for name in ("test", "target", "iter", "subject"):
        part = getattr(node, name, None)
        if part is not None:
            yield part
    yield from getattr(node, "items", ())


def _list_managers(file: SourceFile, expressions: Sequence[ast.expr]) -> tuple[str, ...]:
    found = []
    for expression in expressions:
        manager = file.names.resolve_manager(expression)
        if manager == "set_grad_enabled":
            manager = "no_grad" if "False" in ast.unparse(expression) else "enable_grad"
        if manager is not None:
            found.append(
                "enable_grad" if manager == "inference_mode" and "False" in ast.unparse(expression) else manager
            )
    return tuple(found)
