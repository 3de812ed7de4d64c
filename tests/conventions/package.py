"""The package as its own source: modules, their syntax trees and their docstrings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gradprobe

ROOT = Path(gradprobe.__file__).parent


class Docstring(NamedTuple):
    """One docstring of the package, or the string below a constant that explains it."""

    file: str
    line: int
    text: str

    @property
    def first_word(self) -> str:
        return self.text.split(maxsplit=1)[0].strip("`*.,;:()").rstrip("'") if self.text.split() else ""


def source_files() -> list[Path]:
    """Return the package's Python files, without what other interpreters import as they start."""
    return [path for path in sorted(ROOT.rglob("*.py")) if "boot" not in path.parts]


def module_name(path: Path) -> str:
    """Return the dotted name of the module in ``path``."""
    parts = ["gradprobe", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def members(owner: type) -> dict[str, Any]:
    """Return the members of a class that the package defines, in the class or in one that it extends."""
    parts = [part for part in owner.__mro__ if part.__module__.partition(".")[0] == "gradprobe"]
    return {name: member for part in reversed(parts) for name, member in vars(part).items()}


def docstrings() -> Iterator[Docstring]:
    """Yield every docstring of the package, and every string that follows an assignment."""
    for path in source_files():
        file = str(path.relative_to(ROOT.parent))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for before, statement in zip([None, *_body(node)], _body(node), strict=False):
                is_first = before is None and isinstance(
                    node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
                )
                if (is_first or isinstance(before, ast.Assign | ast.AnnAssign)) and _is_text(statement):
                    assert isinstance(statement, ast.Expr)
                    assert isinstance(statement.value, ast.Constant)
                    yield Docstring(file, statement.lineno, str(statement.value.value).strip())


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _body(node: ast.AST) -> list[ast.stmt]:
    body = getattr(node, "body", None)
    return body if isinstance(body, list) else []


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
