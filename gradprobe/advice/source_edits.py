"""Patches of what was proven, and the comments for what is to stay: edits at positions, which keep all formatting."""

from __future__ import annotations

import ast
import difflib
import os
import re
from collections.abc import Iterable, Iterator, Sequence

from gradprobe.advice.manager_sites import EXCHANGED, Site, SourceFile, apply_edits, replace_manager
from gradprobe.scan.source_text import split_lines

Edit = tuple[int, int, int, str]
_BYTE_LINE = re.compile(rb"[^\n]*\n|[^\n]+\Z")


def exchange_in_source(file: SourceFile, sites: Sequence[Site]) -> str:
    """Return the text of a file with the managers of sites exchanged, by names that the file has or imports."""
    edits: list[Edit] = []
    lines = split_lines(file.text)
    for site in sites:
        old = lines[site.line - 1].encode()[site.start : site.end].decode()
        other = EXCHANGED[site.manager]
        prefix, dot, _ = old.rpartition(".")
        if dot:
            edits.append(replace_manager(site, f"{prefix}.{other}"))
            continue
        name, more = _find_name(file, old, other, sites)
        edits += [replace_manager(site, name), *more]
    return apply_edits(file.text, edits)


def _find_name(file: SourceFile, old: str, other: str, sites: Sequence[Site]) -> tuple[str, list[Edit]]:
    """Return the name of the other manager in a file, and the edit of an import that brings it if there is none."""
    everywhere = {id(node) for node in _list_imports_of_module(file.tree)}
    source: ast.alias | None = None
    for node in ast.walk(file.tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for alias in node.names:
            if id(node) in everywhere and isinstance(node, ast.Import) and alias.name == "torch":
                return f"{alias.asname or 'torch'}.{other}", []
            if isinstance(node, ast.ImportFrom) and (alias.asname or alias.name) == old:
                source = alias
            elif id(node) in everywhere and _is_import_of(node, alias, other):
                return alias.asname or other, []
    if source is None or source.end_col_offset is None:
        return other, []  # from torch import *
    imported, name = (other, other) if not _is_taken(file, other) else (f"{other} as torch_{other}", f"torch_{other}")
    is_needed = _is_used_elsewhere(file, old, sites)
    start = source.end_col_offset if is_needed else source.col_offset
    text = f", {imported}" if is_needed else imported
    return name, [(source.end_lineno or source.lineno, start, source.end_col_offset, text)]


def _list_imports_of_module(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the imports that run when the module is imported: not those of functions, or for type checkers."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.Try):
            waiting += node.body


def _is_taken(file: SourceFile, name: str) -> bool:
    """Return whether a file uses a name for something of its own."""
    return any(
        (isinstance(node, ast.Name) and node.id == name)
        or (isinstance(node, ast.arg) and node.arg == name)
        or (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name)
        or (isinstance(node, ast.alias) and (node.asname or node.name) == name)
        for node in ast.walk(file.tree)
    )


def _is_used_elsewhere(file: SourceFile, name: str, sites: Sequence[Site]) -> bool:
    """Return whether a name is used on other lines than those of the sites, or by those that import the file."""
    exchanged = {(site.line, site.start) for site in sites}
    uses = [n for n in ast.walk(file.tree) if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load)]
    if any((use.lineno, use.col_offset) not in exchanged for use in uses):
        return True
    texts = (n.value for n in ast.walk(file.tree) if isinstance(n, ast.Constant))
    return os.path.basename(file.file) == "__init__.py" or name in texts


def add_comments(text: str, comments: Iterable[tuple[int, str]]) -> str:
    """Return ``text`` with a comment above the statement or decorator on each of the lines, indented like it."""
    lines, tree = split_lines(text), ast.parse(text)
    firsts = [(_find_first_line(tree, line), comment) for line, comment in comments]
    for line, comment in sorted(firsts, reverse=True):
        below = lines[line - 1]
        indent = below[: len(below) - len(below.lstrip())]
        added = f"{indent}# {comment}{_line_end(below)}"
        if line < 2 or lines[line - 2].strip() != added.strip():
            lines.insert(line - 1, added)
    return "".join(lines)


def _find_first_line(tree: ast.Module, line: int) -> int:
    """Return the first line of the innermost statement or decorator that a line is part of."""
    found = line
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno):
            found = node.lineno
            for decorator in getattr(node, "decorator_list", ()):
                if decorator.lineno <= line <= decorator.end_lineno:
                    return int(decorator.lineno)
    return found


def enclose_in_normal_mode(file: SourceFile, line: int) -> str | None:
    """Return the text with the statement on ``line`` put under normal mode without grad, or None if it has no such form."""
    for node in ast.walk(file.tree):
        is_simple = isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Expr | ast.Return)
        if is_simple and isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno):
            lines = split_lines(file.text)
            indent = lines[node.lineno - 1][: node.col_offset]
            if indent.strip():
                return None
            torch = _torch_name(file)
            end = node.end_lineno or node.lineno
            inner = ["    " + each for each in lines[node.lineno - 1 : end]]
            head = f"{indent}with {torch}.inference_mode(False), {torch}.no_grad():{_line_end(lines[node.lineno - 1])}"
            return "".join([*lines[: node.lineno - 1], head, *inner, *lines[end:]])
    return None


def make_diff(file: str, before: bytes, after: bytes) -> bytes:
    """Return a unified diff of one file, with a path relative to the current folder where that is possible.

    Programs that apply patches compare bytes, of lines that end with a line feed.
    """
    name = os.path.relpath(file)
    name = file if name.startswith("..") else name
    path = name.replace(os.sep, "/").lstrip("/").encode()
    old, new = _BYTE_LINE.findall(before), _BYTE_LINE.findall(after)
    lines = difflib.diff_bytes(difflib.unified_diff, old, new, b"a/" + path, b"b/" + path)
    return b"".join(each if each.endswith(b"\n") else each + b"\n\\ No newline at end of file\n" for each in lines)


def _is_import_of(node: ast.stmt, alias: ast.alias, manager: str) -> bool:
    module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
    return alias.name == manager and (module == "torch" or module.startswith("torch.autograd"))


def _torch_name(file: SourceFile) -> str:
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "torch":
                    return alias.asname or "torch"
    return "__import__('torch')"


def _line_end(line: str) -> str:
    return "\r\n" if line.endswith("\r\n") else "\n"
