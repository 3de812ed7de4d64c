"""What the source of a program says about a line: its function, its block, what that yields or awaits. Nothing is run."""

from __future__ import annotations

import ast
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_LARGEST_FILE = 4 << 20
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_MANAGERS = ("no_grad", "inference_mode", "set_grad_enabled", "enable_grad")


@dataclass(frozen=True)
class ParsedFile:
    """A parsed file."""

    file: str
    tree: ast.Module

    def find_function_at(self, line: int) -> FunctionNode | None:
        """The innermost function around a line, its decorators included."""
        found: FunctionNode | None = None
        for node in ast.walk(self.tree):
            is_around = isinstance(node, FunctionNode) and get_first_line(node) <= line <= (node.end_lineno or line)
            if (
                isinstance(node, FunctionNode)
                and is_around
                and (found is None or get_first_line(node) >= get_first_line(found))
            ):
                found = node
        return found

    def block_at(self, line: int) -> ast.With | ast.AsyncWith | None:
        """The ``with`` statement whose head is on a line."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.With | ast.AsyncWith) and node.lineno <= line < node.body[0].lineno + (
                node.body[0].lineno == node.lineno
            ):
                return node
        return None

    def classes(self) -> dict[str, ast.ClassDef]:
        """The classes of the file by name; of several with one name the last."""
        return {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)}

    def functions(self) -> dict[str, FunctionNode]:
        """The functions of the file by name; of several with one name the last."""
        return {node.name: node for node in ast.walk(self.tree) if isinstance(node, FunctionNode)}

    def made_at(self, name: str, before: int) -> int | None:
        """The last line before ``before`` that gives a variable or an attribute, as ``self.ctx``, its value."""
        lines = [
            node.lineno
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Assign)
            and node.lineno < before
            and any(ast.unparse(target) == name for target in node.targets)
        ]
        return max(lines, default=None)


def parse_file(file: str | None) -> ParsedFile | None:
    """A Python file parsed; None for what is no such file, or does not parse."""
    changed = get_file_version(file)
    return None if file is None or changed is None else _parsed(file, changed)


def get_file_version(file: str | None) -> tuple[int, int] | None:
    """What tells a Python file from what it was before it was edited; None for what is no such file, or too large."""
    if not isinstance(file, str) or not file.endswith(".py"):
        return None
    try:
        found = Path(file).stat()
    except (OSError, ValueError):
        return None
    is_read = stat.S_ISREG(found.st_mode) and found.st_size <= _LARGEST_FILE
    return (found.st_mtime_ns, found.st_size) if is_read else None


@lru_cache(64)
def _parsed(file: str, changed: tuple[int, int]) -> ParsedFile | None:
    try:
        return ParsedFile(file, ast.parse(Path(file).read_bytes()))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def get_first_line(function: FunctionNode) -> int:
    """The line of the first decorator, or of the ``def``."""
    return min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])


def walk_scope(node: ast.AST, kinds: type[ast.AST] | tuple[type[ast.AST], ...]) -> Iterator[ast.AST]:
    """The nodes of some kinds in a statement, but for those in functions that it defines."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _SCOPES):
            continue
        if isinstance(child, kinds):
            yield child
        yield from walk_scope(child, kinds)


def resolve_manager(expression: ast.expr) -> str | None:
    """The mode manager of PyTorch's that an expression names or calls, as ``torch.no_grad()``; None for any other."""
    named = expression.func if isinstance(expression, ast.Call) else expression
    text = ast.unparse(named)
    owner, _, name = text.rpartition(".")
    return name if name in _MANAGERS and "gradprobe" not in owner else None


def find_grad_decorator(function: FunctionNode) -> ast.expr | None:
    """The decorator that switches gradients off for a function."""
    for decorator in function.decorator_list:
        if resolve_manager(decorator) in ("no_grad", "inference_mode"):
            return decorator
    return None
