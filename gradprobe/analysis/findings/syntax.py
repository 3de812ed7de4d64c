"""Syntax of the user's source files: the function or block at a line. No code is run."""

from __future__ import annotations

import ast
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from gradprobe.analysis.findings.store_syntax import fills, is_named, list_written, stores
from gradprobe.analysis.imported_names import ImportedNames

_MAX_FILE_BYTES = 4 << 20
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


@dataclass(frozen=True)
class ParsedFile:
    """Syntax tree of a file."""

    file: str
    tree: ast.Module

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """All nodes, those around others first, as many rules look through them and each walk of the tree takes long."""
        return tuple(ast.walk(self.tree))

    @cached_property
    def calls(self) -> tuple[ast.Call, ...]:
        """The calls among the nodes."""
        return tuple(node for node in self.nodes if isinstance(node, ast.Call))

    @cached_property
    def classes(self) -> tuple[ast.ClassDef, ...]:
        """The classes among the nodes."""
        return tuple(node for node in self.nodes if isinstance(node, ast.ClassDef))

    @cached_property
    def functions(self) -> tuple[FunctionNode, ...]:
        """The functions among the nodes."""
        return tuple(node for node in self.nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    @cached_property
    def names(self) -> ImportedNames:
        """Names that the file imports."""
        return ImportedNames(node for node in self.nodes if isinstance(node, ast.Import | ast.ImportFrom))

    def find_function_at(self, line: int) -> FunctionNode | None:
        """Return the innermost function around a line; its decorators belong to it."""
        # Of functions that begin on one line, the walk meets the inner one last.
        return max(reversed(self._list_functions_around(line)), key=get_first_line, default=None)

    def _list_functions_around(self, line: int) -> list[FunctionNode]:
        return [node for node in self.functions if get_first_line(node) <= line <= (node.end_lineno or line)]

    def find_scope_at(self, line: int) -> ast.Module | FunctionNode:
        """Return the innermost function around a line, the module outside of functions."""
        return self.find_function_at(line) or self.tree

    def list_scopes_around(self, line: int) -> list[ast.Module | FunctionNode]:
        """Return the module and the functions around a line, whose variables it can name."""
        return [self.tree, *self._list_functions_around(line)]

    def iter_scopes(self) -> Iterator[ast.Module | FunctionNode]:
        """Yield the module and all its functions."""
        yield self.tree
        yield from self.functions

    def find_block_at(self, line: int) -> ast.With | ast.AsyncWith | None:
        """Return the ``with`` statement whose head is on a line."""
        for node in self.nodes:
            if isinstance(node, ast.With | ast.AsyncWith) and node.lineno <= line < node.body[0].lineno + (
                node.body[0].lineno == node.lineno
            ):
                return node
        return None

    def find_loop_at(self, line: int) -> int | None:
        """Return the line of the innermost loop or comprehension around a line, in the same function."""
        function = self.find_function_at(line)
        kinds = ast.For | ast.AsyncFor | ast.While | ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp
        around = [
            node.lineno
            for node in (self.nodes if function is None else ast.walk(function))
            if isinstance(node, kinds) and node.lineno <= line <= (node.end_lineno or line)
        ]
        return max(around, default=None)

    def find_store(self, name: str, near: int) -> int | None:
        """Return the line nearest to ``near`` that puts something into a container or attribute called ``name``.

        ``total += x``, ``history.append(x)``, ``self.cache[key] = x``, ``self.last = x``, ``Result(last=x)`` and
        ``self.register_buffer("last", x)`` do; ``self.last = None`` and ``self.cache = {}`` put nothing there.
        """
        found = [node for node in self.nodes if stores(node, name)]
        lines = [int(getattr(node, "lineno", 0)) for node in list(filter(fills, found)) or found]
        return min(lines, key=lambda line: (abs(line - near), line), default=None)

    def find_statement(self, line: int) -> tuple[int, int] | None:
        """Return the first and last line of the statement that a line is part of, of a compound one without its body."""
        spans = []
        for node in self.nodes:
            if isinstance(node, ast.stmt):
                body = getattr(node, "body", None)
                last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
                if node.lineno <= line <= max(last, node.lineno):
                    spans.append((node.lineno, max(last, node.lineno)))
        return max(spans, default=None)

    def find_call(self, name: str, near: int) -> int | None:
        """Return the line nearest to ``near`` that calls a function or class of this name."""
        calls = self.calls
        lines = [node.lineno for node in calls if get_last_name(node.func) == name]
        return min(lines, key=lambda line: abs(line - near), default=None)

    def find_calls_with(self, name: str) -> list[int]:
        """Return the lines that call a variable or attribute of this name, or give it to a function, but not to copy it."""
        calls = self.calls
        return sorted(
            {
                call.lineno
                for call in calls
                if name in map(get_last_name, [call.func, *call.args]) and get_last_name(call.func) != "deepcopy"
            }
        )

    def writes_through(self, line: int, names: Sequence[str]) -> bool:
        """Return whether a line writes in place through one of these attributes, by an assignment or a method."""
        return any(
            isinstance(part, ast.Attribute) and part.attr in names
            for node in self.nodes
            if getattr(node, "lineno", None) == line
            for target in list_written(node)
            for part in ast.walk(target)
        )

    def find_method_calls(self, name: str) -> list[int]:
        """Return the lines that call a method of a variable or attribute of this name."""
        functions = (node.func for node in self.nodes if isinstance(node, ast.Call))
        owners = (function.value for function in functions if isinstance(function, ast.Attribute))
        return sorted({owner.lineno for owner in owners if get_last_name(owner) == name})

    def find_container(self, name: str, before: int) -> int | None:
        """Return the last line before ``before`` that assigns a new list, dict or other container to ``name``.

        A function with such a default argument does.
        """
        lines = [
            node.lineno
            for node in self.nodes
            if isinstance(node, ast.Assign | ast.AnnAssign)
            and node.lineno < before
            and isinstance(node.value, ast.List | ast.Dict | ast.Call | ast.Set)
            and any(is_named(t, name) for t in (node.targets if isinstance(node, ast.Assign) else [node.target]))
        ]
        lines += [
            argument.lineno
            for node in self.functions
            if node.lineno < before
            for argument, default in _iter_defaults(node.args)
            if argument.arg == name and isinstance(default, ast.List | ast.Dict | ast.Call | ast.Set)
        ]
        return max(lines, default=None)

    def find_requires_grad(self) -> list[int]:
        """Return the lines that set ``requires_grad``."""
        return [
            node.lineno
            for node in self.nodes
            if (isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".requires_grad_"))
            or (isinstance(node, ast.Assign) and any(ast.unparse(t).endswith(".requires_grad") for t in node.targets))
        ]

    def find_clearing(self) -> list[int]:
        """Return the lines that clear gradients: a call of ``zero_grad``, or an assignment to ``grad``."""
        return sorted({node.lineno for node in self.nodes if isinstance(node, ast.stmt) and _clears(node)})

    def names_infinity(self, line: int) -> bool:
        """Return whether the statement at a line has an infinite number in it: ``math.inf`` or ``float("inf")``."""
        first, last = self.find_statement(line) or (line, line)
        nodes = (node for node in self.nodes if first <= getattr(node, "lineno", 0) <= last)
        return any(getattr(node, "attr", getattr(node, "id", getattr(node, "value", None))) == "inf" for node in nodes)

    def find_data_read(self, line: int) -> int | None:
        """Return the line that reads what a statement computes through ``.data``: its own, or a later one of the scope."""
        first, last = self.find_statement(line) or (line, line)
        scope = self.find_scope_at(line)
        reads = [
            node for node in walk_scope(scope, ast.Attribute) if isinstance(node, ast.Attribute) and _reads_data(node)
        ]
        if any(first <= node.lineno <= last for node in reads):
            return first
        names = {
            ast.unparse(target)
            for node in walk_scope(scope, ast.Assign)
            if isinstance(node, ast.Assign) and node.lineno == first
            for target in node.targets
        }
        lines = [node.lineno for node in reads if ast.unparse(node.value) in names]
        return min((found for found in lines if found > last), default=None)

    def find_backward_return(self, line: int) -> int | None:
        """Return the last ``return`` of the ``backward`` method of the class around a line."""
        owner = self._find_class_at(line)
        method = (
            None
            if owner is None
            else next((f for f in owner.body if isinstance(f, ast.FunctionDef) and f.name == "backward"), None)
        )
        returns = () if method is None else walk_scope(method, ast.Return)
        return max((node.lineno for node in returns if isinstance(node, ast.Return)), default=None)

    def find_apply(self, line: int) -> int | None:
        """Return the first line that calls ``apply`` of the class around a line."""
        owner = self._find_class_at(line)
        name = "" if owner is None else f"{owner.name}.apply"
        calls = self.calls
        return min((c.lineno for c in calls if owner is not None and ast.unparse(c.func) == name), default=None)

    def _find_class_at(self, line: int) -> ast.ClassDef | None:
        around = [node for node in self.classes if node.lineno <= line <= (node.end_lineno or line)]
        return max(around, key=lambda node: node.lineno, default=None)

    def index_classes(self) -> dict[str, ast.ClassDef]:
        """Return the classes of the file by name, the last one of each name."""
        return {node.name: node for node in self.classes}

    def index_functions(self) -> dict[str, FunctionNode]:
        """Return the functions of the file by name, the last one of each name."""
        return {node.name: node for node in self.functions}

    def find_assignment(self, name: str, before: int) -> int | None:
        """Return the last line before ``before`` that assigns a variable or an attribute (``self.ctx``)."""
        lines = [
            node.lineno
            for node in self.nodes
            if isinstance(node, ast.Assign)
            and node.lineno < before
            and any(ast.unparse(target) == name for target in node.targets)
        ]
        return max(lines, default=None)


def _reads_data(node: ast.Attribute) -> bool:
    return node.attr == "data" and isinstance(node.ctx, ast.Load)


def _clears(node: ast.stmt) -> bool:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return ast.unparse(node.value.func).endswith(".zero_grad")
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Attribute) and target.attr == "grad" for target in node.targets
    )


def _iter_defaults(arguments: ast.arguments) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    """Yield the arguments of a function that have a default, with it."""
    positional = [*arguments.posonlyargs, *arguments.args]
    yield from zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True)
    yield from zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)


def get_last_name(node: ast.expr) -> str:
    """Return the name of what an expression refers to, without the objects that it is looked up in."""
    return ast.unparse(node).rsplit(".", 1)[-1]


def parse_file(file: str | None) -> ParsedFile | None:
    """Return a parsed Python file, or None if it does not exist, is not a Python file or does not parse."""
    version = get_file_version(file)
    return None if file is None or version is None else _parse(file, version)


def get_file_version(file: str | None) -> tuple[int, int] | None:
    """Return what changes when a Python file is edited, or None if it is missing or too large.

    These are its modification time and its size.
    """
    if not isinstance(file, str) or not file.endswith(".py"):
        return None
    try:
        found = Path(file).stat()
    except (OSError, ValueError):
        return None
    is_readable = stat.S_ISREG(found.st_mode) and found.st_size <= _MAX_FILE_BYTES
    return (found.st_mtime_ns, found.st_size) if is_readable else None


@lru_cache(64)
def _parse(file: str, version: tuple[int, int]) -> ParsedFile | None:
    try:
        return ParsedFile(file, ast.parse(Path(file).read_bytes()))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def get_first_line(function: FunctionNode) -> int:
    """Return the line of the first decorator, or of the ``def`` if there is no decorator."""
    return min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])


def walk_scope(node: ast.AST, kinds: type[ast.AST] | tuple[type[ast.AST], ...]) -> Iterator[ast.AST]:
    """Yield the nodes of some kinds in a statement, without those in nested functions and classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _SCOPES):
            continue
        if isinstance(child, kinds):
            yield child
        yield from walk_scope(child, kinds)


def delegates(function: FunctionNode, names: ImportedNames) -> bool:
    """Return whether a method calls the decorated method that it overrides, or sets a mode itself."""
    for node in ast.walk(function):
        if isinstance(node, ast.With) and any(names.resolve_manager(item.context_expr) for item in node.items):
            return True
        if isinstance(node, ast.Attribute) and node.attr == function.name and isinstance(node.value, ast.Call):
            called = node.value.func
            if isinstance(called, ast.Name) and called.id == "super":
                return True
    return False
