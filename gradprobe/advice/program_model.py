"""The program's source as functions and statements, with the scopes that its names belong to."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from gradprobe.advice.line_trace import AFTER, FIRST_VIRTUAL_LINE, list_parts, part_number
from gradprobe.advice.manager_sites import SourceFile

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
TRIES: tuple[type[ast.stmt], ...] = (ast.Try, *([ast.TryStar] if hasattr(ast, "TryStar") else []))
"""Both kinds of ``try``."""
_COMPOUND = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, *TRIES, ast.Match)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_Shared = TypeVar("_Shared")
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
    declared_nonlocal: set[str] = field(default_factory=set)

    @property
    def function(self) -> FunctionNode | None:
        """The function, or None for a module, a class or a lambda."""
        return self.node if isinstance(self.node, FunctionNode) else None

    @cached_property
    def arguments(self) -> ast.arguments | None:
        """The parameters of a function or lambda."""
        return self.node.args if isinstance(self.node, FunctionNode | ast.Lambda) else None

    @cached_property
    def key(self) -> str:
        """A text that identifies the scope."""
        return f"{self.file.file}:{self.name}"

    def resolve(self, name: str) -> Key:
        """Return the place of the variable that ``name`` means here."""
        scope: Scope | None = self
        while scope is not None and scope.parent is not None:
            visible = scope is self or scope.arguments is not None
            is_own = name in scope.variables and name not in scope.declared_nonlocal
            if name in scope.declared_global:
                break
            if visible and is_own:
                return ("variable", scope.key, name)
            scope = scope.parent
        return ("variable", "global", name)

    @cached_property
    def parameters(self) -> list[str]:
        """The names of the parameters in the order of the call."""
        given = self.arguments
        return [] if given is None else [each.arg for each in (*given.posonlyargs, *given.args)]

    @cached_property
    def all_parameters(self) -> list[str]:
        """The names of all parameters, also of those that are given by name or collect others."""
        given = self.arguments
        if given is None:
            return []
        extra = [each.arg for each in (given.vararg, given.kwarg) if each is not None]
        return [*self.parameters, *(each.arg for each in given.kwonlyargs), *extra]


@dataclass(eq=False)
class Statement:
    """A simple statement, or the head of a compound one."""

    scope: Scope
    node: ast.stmt
    expressions: Sequence[ast.AST]
    last_line: int
    modes: tuple[str, ...]
    """Managers whose blocks or decorators are around it, outermost first."""
    suite: Sequence[ast.stmt] = ()
    """The statements of the body that it is in."""
    parent: Statement | None = None
    """The compound statement that it is in, if that is in the same function."""

    @property
    def line(self) -> int:
        """The line where it begins."""
        return self.node.lineno

    @cached_property
    def parts(self) -> tuple[ast.AST, ...]:
        """All that it evaluates."""
        return tuple(part for expression in self.expressions for part in walk_own(expression))


class ProgramModel:
    """All functions and statements of the program's files, and which of them ran."""

    def __init__(self, files: Sequence[SourceFile]) -> None:
        self.files = {file.file: file for file in files}
        self._shared: dict[type, object] = {}
        self._by_scope: dict[int, list[Statement]] = {}
        self._by_file: dict[str, list[Statement]] = {}
        self.statements: list[Statement] = []
        self.scopes: list[Scope] = []
        self.lambdas: dict[int, Scope] = {}
        """The scope of each lambda, by the identity of its node."""
        for file in files:
            scope = Scope(file, "", None, file.tree)
            self.scopes.append(scope)
            self._add_body(scope, file.tree.body, (), None)
        self.by_name: dict[str, list[Scope]] = {}
        for scope in self.scopes:
            if scope.function is not None:
                self.by_name.setdefault(scope.function.name, []).append(scope)
        self.inner_scopes = {id(scope.node): scope for scope in self.scopes}
        """The scopes of definitions and lambdas, by the identity of their nodes."""
        self.generators = {
            id(each.scope)
            for each in self.statements
            if any(isinstance(part, ast.Yield | ast.YieldFrom) for part in each.parts)
        }
        """Identities of the scopes of generators."""
        self.classes = {
            node.name: node for file in files for node in ast.walk(file.tree) if isinstance(node, ast.ClassDef)
        }

    def list_statements(self, file: str) -> list[Statement]:
        """Return the statements of a file."""
        if not self._by_file:
            for each in self.statements:
                self._by_file.setdefault(each.scope.file.file, []).append(each)
        return self._by_file.get(file, [])

    def list_own_statements(self, scope: Scope) -> list[Statement]:
        """Return the statements of a function, or of the top of a module or class."""
        if not self._by_scope:
            for each in self.statements:
                self._by_scope.setdefault(id(each.scope), []).append(each)
        return self._by_scope.get(id(scope), [])

    def share(self, kind: type[_Shared]) -> _Shared:
        """Return the one object of a kind that is made of the program."""
        if kind not in self._shared:
            self._shared[kind] = kind(self)  # type: ignore[call-arg]
        return self._shared[kind]  # type: ignore[return-value]

    def list_fields(self, name: str) -> list[str]:
        """Return the annotated fields of a class of the program in the order of its constructor."""
        node = self.classes.get(name)
        body = node.body if node is not None else []
        return [e.target.id for e in body if isinstance(e, ast.AnnAssign) and isinstance(e.target, ast.Name)]

    def _add_body(
        self, scope: Scope, body: Sequence[ast.stmt], modes: tuple[str, ...], parent: Statement | None
    ) -> None:
        for node in body:
            statement = self._add_statement(scope, node, modes)
            statement.suite, statement.parent = body, parent
            if isinstance(node, _DEFINITIONS):
                self._add_definition(scope, node)
                continue
            inner = modes
            if isinstance(node, ast.With | ast.AsyncWith):
                inner = (*modes, *_list_managers(scope.file, [item.context_expr for item in node.items]))
            for part in list_bodies(node):
                self._add_body(scope, part, inner, statement)

    def _add_definition(self, scope: Scope, node: FunctionNode | ast.ClassDef) -> None:
        scope.variables.add(node.name)
        name = f"{scope.name}.{node.name}" if scope.name else node.name
        class_name = node.name if isinstance(node, ast.ClassDef) else scope.class_name if scope.function is None else ""
        inner = Scope(scope.file, name, scope, node, class_name)
        self.scopes.append(inner)
        modes: tuple[str, ...] = ()
        if not isinstance(node, ast.ClassDef):
            inner.variables.update(inner.all_parameters)
            modes = _list_managers(scope.file, node.decorator_list)
        self._add_body(inner, node.body, modes, None)

    def _add_lambda(self, scope: Scope, node: ast.Lambda, modes: tuple[str, ...]) -> None:
        """Add a lambda as a function that returns its expression."""
        name = f"<lambda {node.lineno}:{node.col_offset}>"
        inner = Scope(scope.file, f"{scope.name}.{name}", scope, node)
        given = node.args
        inner.variables.update(
            each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg) if each
        )
        self.scopes.append(inner)
        self.lambdas[id(node)] = inner
        body = ast.copy_location(ast.Return(node.body), node.body)
        self._add_statement(inner, body, modes).suite = (body,)

    def _add_statement(self, scope: Scope, node: ast.stmt, modes: tuple[str, ...]) -> Statement:
        if isinstance(node, ast.Global | ast.Nonlocal):
            (scope.declared_global if isinstance(node, ast.Global) else scope.declared_nonlocal).update(node.names)
        expressions = list(_list_own_expressions(node))
        is_head = isinstance(node, (*_COMPOUND, *_DEFINITIONS))
        last = node.lineno if is_head else node.end_lineno or node.lineno
        for expression in expressions:
            last = max(last, getattr(expression, "end_lineno", None) or last)
            for part in walk_own(expression):
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store | ast.Del):
                    scope.variables.add(part.id)
                elif isinstance(part, ast.Lambda):
                    self._add_lambda(scope, part, ())  # it may be called when the block has ended
        statement = Statement(scope, node, expressions, last, modes)
        self.statements.append(statement)
        return statement


class Coverage:
    """The lines that ran, each with the modes that it ran under, and the parts of lines that did not run."""

    def __init__(self, lines: dict[tuple[str, int], set[int]], files: Sequence[SourceFile]) -> None:
        self._lines = lines
        self._is_order_known = any(mode & AFTER for modes in lines.values() for mode in modes)
        self._parts: dict[int, bool] = {}
        self._modes: dict[int, set[int]] = {}
        self._unrun_parts: dict[int, tuple[ast.expr, ...]] = {}
        for file in files:
            numbered = list_parts(file.tree)
            ran = {part_number(line) for (name, line) in lines if name == file.file and line >= FIRST_VIRTUAL_LINE}
            self._parts.update({id(part): number in ran for number, (part, _) in enumerate(numbered)})

    def modes(self, statement: Statement) -> set[int]:
        """Return the modes under which a statement ran; empty if it did not run."""
        found = self._modes.get(id(statement))
        if found is None:
            found = self._modes[id(statement)] = set()
            for line in range(statement.line, statement.last_line + 1):
                found |= self._lines.get((statement.scope.file.file, line), set())
        return found

    def has_run(self, statement: Statement) -> bool:
        """Return whether a statement ran. What compiles to nothing counts as if it had."""
        if isinstance(statement.node, _DEFINITIONS) and not statement.expressions:
            return True
        if isinstance(statement.node, (ast.Pass, ast.Global, ast.Nonlocal, ast.Import, ast.ImportFrom, *TRIES)):
            return True
        if isinstance(statement.node, ast.Expr) and isinstance(statement.node.value, ast.Constant):
            return True
        return bool(self.modes(statement))

    def has_run_after_block(self, statement: Statement) -> bool:
        """Return whether a statement ran once a block of inference mode had been left, as far as that is known."""
        return not self._is_order_known or any(mode & AFTER for mode in self.modes(statement))

    def list_unrun_parts(self, statement: Statement) -> Iterator[ast.expr]:
        """Yield the outermost parts of a statement's expressions that did not run although the statement did."""
        if id(statement) not in self._unrun_parts:
            self._unrun_parts[id(statement)] = tuple(self._search_unrun_parts(statement))
        yield from self._unrun_parts[id(statement)]

    def _search_unrun_parts(self, statement: Statement) -> Iterator[ast.expr]:
        waiting: list[ast.AST] = list(statement.expressions)
        while waiting:
            node = waiting.pop()
            is_unrun = self._parts.get(id(node)) is False and not self._has_run_inside(node)
            if is_unrun and isinstance(node, ast.expr):
                yield node
                continue
            if not isinstance(node, ast.Lambda):  # its expression is a statement of its own
                waiting.extend(ast.iter_child_nodes(node))

    def _has_run_inside(self, node: ast.AST) -> bool:
        """Return whether a part inside ``node`` ran: its own line may be hidden behind theirs."""
        return any(self._parts.get(id(inner), False) for inner in ast.walk(node) if inner is not node)


def list_bodies(node: ast.stmt) -> Iterator[Sequence[ast.stmt]]:
    """Yield the bodies of a compound statement."""
    for name in ("body", "orelse", "finalbody"):
        part = getattr(node, name, None)
        if isinstance(part, list):
            yield part
    for handler in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        yield handler.body


def walk_own(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all that is evaluated with an expression; the expression of a lambda is not."""
    waiting = [node]
    while waiting:
        part = waiting.pop()
        yield part
        waiting += (
            [each for each in (*part.args.defaults, *part.args.kw_defaults) if each is not None]
            if isinstance(part, ast.Lambda)
            else ast.iter_child_nodes(part)
        )


def _list_own_expressions(node: ast.stmt) -> Iterator[ast.AST]:
    """Yield the expressions that a statement evaluates itself, without those of the statements inside it."""
    if isinstance(node, ast.ClassDef):
        yield from (*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords))
        return
    if isinstance(node, FunctionNode):
        defaults = (*node.args.defaults, *node.args.kw_defaults)
        yield from (*node.decorator_list, *(each for each in defaults if each is not None))
        return
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
        if manager is None:
            continue
        given = (
            [] if not isinstance(expression, ast.Call) else [*expression.args, *(k.value for k in expression.keywords)]
        )
        value = given[0] if given else None
        is_on = value is None or (isinstance(value, ast.Constant) and value.value is True)
        is_off = isinstance(value, ast.Constant) and value.value is False
        if manager == "set_grad_enabled":
            manager = "no_grad" if is_off else "enable_grad"
        elif manager == "inference_mode" and not is_on:
            manager = "enable_grad"  # a value that the run decides protects nothing
        found.append(manager)
    return tuple(found)
