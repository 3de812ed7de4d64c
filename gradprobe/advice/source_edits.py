"""Patches of what was proven, and the comments for what is to stay: edits at positions, which keep all formatting."""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Iterable, Sequence

from gradprobe.advice.manager_sites import EXCHANGED, Site, SourceFile, apply_edits, replace_manager

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Edit = tuple[int, int, int, str]


def exchange_in_source(file: SourceFile, sites: Sequence[Site]) -> str:
    """Return the text of a file with the managers of sites exchanged, by names that the file has or imports."""
    edits: list[Edit] = []
    for site in sites:
        old = file.text.splitlines()[site.line - 1].encode()[site.start : site.end].decode()
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
    local = {id(part) for node in ast.walk(file.tree) if isinstance(node, _FUNCTIONS) for part in ast.walk(node)}
    source: ast.alias | None = None
    for node in ast.walk(file.tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for alias in node.names:
            is_visible = id(node) not in local
            if is_visible and isinstance(node, ast.Import) and alias.name == "torch":
                return f"{alias.asname or 'torch'}.{other}", []
            if isinstance(node, ast.ImportFrom) and (alias.asname or alias.name) == old:
                source = alias
            elif is_visible and isinstance(node, ast.ImportFrom) and alias.name == other and _is_torch(node.module):
                return alias.asname or other, []
    if source is None or source.end_col_offset is None:
        return other, []  # from torch import *
    uses = [n for n in ast.walk(file.tree) if isinstance(n, ast.Name) and n.id == old and isinstance(n.ctx, ast.Load)]
    exchanged = {(site.line, site.start) for site in sites}
    is_needed = any((use.lineno, use.col_offset) not in exchanged for use in uses)
    start = source.end_col_offset if is_needed else source.col_offset
    text = f", {other}" if is_needed else other
    return other, [(source.lineno, start, source.end_col_offset, text)]


def add_comments(text: str, comments: Iterable[tuple[int, str]]) -> str:
    """Return ``text`` with a comment above each of the lines, indented like it."""
    lines = text.splitlines(keepends=True)
    for line, comment in sorted(comments, reverse=True):
        below = lines[line - 1]
        indent = below[: len(below) - len(below.lstrip())]
        added = f"{indent}# {comment}{_line_end(below)}"
        if line < 2 or lines[line - 2].strip() != added.strip():
            lines.insert(line - 1, added)
    return "".join(lines)


def enclose_in_normal_mode(file: SourceFile, line: int) -> str | None:
    """Return the text with the statement on ``line`` put under normal mode without grad, or None if it has no such form."""
    for node in ast.walk(file.tree):
        is_simple = isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Expr | ast.Return)
        if is_simple and isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno):
            lines = file.text.splitlines(keepends=True)
            indent = lines[node.lineno - 1][: node.col_offset]
            if indent.strip():
                return None
            torch = _torch_name(file)
            end = node.end_lineno or node.lineno
            inner = ["    " + each for each in lines[node.lineno - 1 : end]]
            head = f"{indent}with {torch}.inference_mode(False), {torch}.no_grad():{_line_end(lines[node.lineno - 1])}"
            return "".join([*lines[: node.lineno - 1], head, *inner, *lines[end:]])
    return None


def make_diff(file: str, before: str, after: str) -> str:
    """Return a unified diff of one file, with a path relative to the current folder where that is possible."""
    name = os.path.relpath(file)
    name = file if name.startswith("..") else name
    name = name.replace(os.sep, "/")
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        after.splitlines(keepends=True),
        f"a/{name.lstrip('/')}",
        f"b/{name.lstrip('/')}",
    )
    return "".join(each if each.endswith("\n") else f"{each}\n\\ No newline at end of file\n" for each in lines)


def _is_torch(module: str | None) -> bool:
    return module == "torch" or (module or "").startswith("torch.autograd")


def _torch_name(file: SourceFile) -> str:
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "torch":
                    return alias.asname or "torch"
    return "__import__('torch')"


def _line_end(line: str) -> str:
    return "\r\n" if line.endswith("\r\n") else "\n"
