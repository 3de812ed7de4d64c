"""Sites of ``no_grad`` and ``inference_mode`` in source text, and the text with some of them exchanged.

A site is the expression that names the manager. It is replaced at its position, so that everything around it keeps its
formatting, whether it is a decorator, an item of a ``with`` statement or a value that is stored and entered later.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gradprobe.analysis.imported_names import ImportedNames
from gradprobe.scan.source_text import SourceText, split_lines

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_Use = tuple[str, _Function | None, tuple[int, int] | None]

EXCHANGED = {"no_grad": "inference_mode", "inference_mode": "no_grad"}


@dataclass(frozen=True)
class Site:
    """An expression that names a manager, its position in the text, and the block or function that it covers.

    ``start`` and ``end`` are byte columns of the manager's name on ``line``. ``body`` has the first and last line that
    it covers, or is None where that cannot be known from the syntax, as for a manager kept in a variable.
    """

    file: str
    line: int
    start: int
    end: int
    manager: str
    form: str
    body: tuple[int, int] | None
    arguments_end: int = 0
    """Byte column behind the brackets if the manager is given an argument that the other one does not take, else 0."""
    first_line: int = 0
    """First line of the function, with its decorators; 0 at the top of the module."""
    function: str = ""
    """Qualified name of the decorated function, or of the one around the block; "" at the top of the module."""


class SourceFile:
    """A file, parsed once, with its sites. Its text has the line ends of the file."""

    def __init__(self, file: str, text: str, encoding: str = "utf-8") -> None:
        self.file, self.text, self._encoding = file, text, encoding
        self.tree = ast.parse(text)
        imports = [n for n in ast.walk(self.tree) if isinstance(n, ast.Import | ast.ImportFrom)]
        self.names = ImportedNames(imports)
        self.sites = sorted(self._find_sites(), key=lambda site: (site.line, site.start))

    @classmethod
    def read(cls, path: Path) -> SourceFile:
        """Read and parse a file.

        Raises:
            OSError, SyntaxError, ValueError: It cannot be read, or is not Python.
        """
        source = SourceText.decode(path.read_bytes())
        return cls(os.path.abspath(path), "".join(source.lines), source.encoding)

    def encode(self, text: str) -> bytes:
        """Return a text in the encoding of the file."""
        return text.encode(self._encoding)

    def _find_sites(self) -> Iterator[Site]:
        covered = dict(_list_covered(self.tree))
        calls = {id(node.func): node for node in ast.walk(self.tree) if isinstance(node, ast.Call)}
        types = {id(argument) for argument in _list_type_arguments(self.tree)}
        for scope, innermost, node in _walk_scopes(self.tree, "", None):
            if (
                not isinstance(node, ast.Attribute | ast.Name)
                or not isinstance(node.ctx, ast.Load)
                or id(node) in types
            ):
                continue
            manager = self.names.resolve_manager(node)
            if manager not in EXCHANGED:
                continue
            form, owner, body = covered.get(id(node), ("call", None, None))
            if form == "inactive" or node.end_lineno != node.lineno or node.end_col_offset is None:
                continue
            call = calls.get(id(node))
            has_argument = call is not None and manager == "inference_mode" and (call.args or call.keywords)
            end = call.end_col_offset if call is not None and has_argument and call.end_lineno == node.lineno else 0
            yield Site(
                self.file,
                node.lineno,
                node.col_offset,
                node.end_col_offset,
                manager,
                form,
                body,
                end or 0,
                _first_line(owner or innermost),
                _qualified_name(owner or innermost, scope),
            )


def replace_manager(site: Site, expression: str) -> tuple[int, int, int, str]:
    """Return the edit that puts an expression in the place of a site's manager: line, start, end, text."""
    if site.arguments_end:
        return site.line, site.start, site.arguments_end, f"{expression}()"
    return site.line, site.start, site.end, expression


def apply_edits(text: str, edits: Iterable[tuple[int, int, int, str]]) -> str:
    """Return ``text`` with each range of a line, in byte columns, replaced."""
    lines = split_lines(text)
    for line, start, end, expression in sorted(set(edits), reverse=True):
        data = lines[line - 1].encode()
        lines[line - 1] = (data[:start] + expression.encode() + data[end:]).decode()
    return "".join(lines)


def _list_type_arguments(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the expressions in which a manager is named as a type, and not to be entered."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
        ):
            for argument in node.args[1:]:
                yield from ast.walk(argument)
        elif isinstance(node, ast.Compare):
            yield from (part for each in (node.left, *node.comparators) for part in ast.walk(each))
        elif isinstance(node, ast.ClassDef):
            yield from (part for base in node.bases for part in ast.walk(base))
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(annotation, ast.AST):
                yield from ast.walk(annotation)


def _list_covered(tree: ast.AST) -> Iterator[tuple[int, _Use]]:
    """Yield for the name of each manager how it is used: its form, the decorated function, and the lines that it covers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_disabled(node):
            yield id(node.func), ("inactive", None, None)
    for node in ast.walk(tree):
        if isinstance(node, ast.With | ast.AsyncWith):
            for item in node.items:
                yield from _name_of(item.context_expr, "with", None, (node.body[0].lineno, _end(node)))
        elif isinstance(node, _FUNCTIONS):
            for decorator in node.decorator_list:
                form = "decorator" if isinstance(node, ast.FunctionDef) else "inactive"
                yield from _name_of(decorator, form, node, (node.body[0].lineno, _end(node)))


def _name_of(
    expression: ast.expr, form: str, function: _Function | None, body: tuple[int, int]
) -> Iterator[tuple[int, _Use]]:
    if isinstance(expression, ast.Call):
        if _is_disabled(expression):
            return
        expression = expression.func
    elif form == "with":
        return
    yield id(expression), (form, function, body)


def _is_disabled(call: ast.Call) -> bool:
    """Return whether a call asks for another mode than the manager's own: ``inference_mode(False)`` or ``(flag)``."""
    if not (isinstance(call.func, ast.Attribute | ast.Name) and "inference" in ast.unparse(call.func)):
        return False
    given = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    return any(
        not isinstance(value, ast.Lambda) and not (isinstance(value, ast.Constant) and value.value is True)
        for value in given
    )


def _walk_scopes(
    node: ast.AST, scope: str, function: _Function | None
) -> Iterator[tuple[str, _Function | None, ast.AST]]:
    """Yield each node with the qualified name of the scope and the function that it is in."""
    for child in ast.iter_child_nodes(node):
        yield scope, function, child
        inner, inner_function = scope, function
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{scope}.{child.name}" if scope else child.name
            inner_function = child if isinstance(child, _FUNCTIONS) else None
        yield from _walk_scopes(child, inner, inner_function)


def _first_line(function: _Function | None) -> int:
    if function is None:
        return 0
    return min([function.lineno, *(each.lineno for each in function.decorator_list)])


def _qualified_name(function: _Function | None, scope: str) -> str:
    """Return the qualified name of a function, given the scope of a name in its body or in its decorators."""
    if function is None or scope.rpartition(".")[2] == function.name:
        return scope
    return f"{scope}.{function.name}" if scope else function.name


def _end(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno
