"""Names in the source at an instruction: the variables of an expression, and where they were assigned."""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch

from gradprobe.recording.notes import SourceLocation


def names_at(frame: FrameType, offset: int) -> Iterator[tuple[str, Any]]:
    """Yield the names and attributes in the expression at an instruction with their values.

    None of the program's code is run to find them.
    """
    try:
        tree = _expression(frame, offset)
    except (SyntaxError, ValueError):
        return
    scope = {**frame.f_globals, **frame.f_locals}
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Name | ast.Attribute):
            found, value = _resolve(node, scope)
            if found:
                yield ast.unparse(node), value


def _resolve(node: ast.expr, scope: dict[str, Any]) -> tuple[bool, Any]:
    if isinstance(node, ast.Name):
        return node.id in scope, scope.get(node.id)
    if isinstance(node, ast.Attribute):
        found, owner = _resolve(node.value, scope)
        if not found:
            return False, None
        attributes = getattr(owner, "__dict__", {})
        if isinstance(owner, torch.nn.Module):
            attributes = {**attributes, **owner._parameters, **owner._buffers, **owner._modules}
        return node.attr in attributes, attributes.get(node.attr)
    return False, None


def _expression(frame: FrameType, offset: int) -> ast.AST | None:
    """Parse the source of an instruction: its own expression if Python knows that, else the whole line."""
    code, file = frame.f_code, frame.f_code.co_filename
    start, end, first, last = frame.f_lineno, frame.f_lineno, None, None
    if sys.version_info >= (3, 11):
        for index, position in enumerate(code.co_positions()):
            if index == offset // 2 and None not in position:
                start, end, first, last = position  # type: ignore[assignment]
                break
    lines = [linecache.getline(file, number) for number in range(start or 0, (end or 0) + 1)]
    if not lines or not all(lines):
        return None
    if first is None or last is None:
        return ast.parse(lines[0].strip().removesuffix(":") + "\n")
    encoded = [line.encode() for line in lines]
    encoded[-1] = encoded[-1][:last]
    encoded[0] = encoded[0][first:]
    source = b"".join(encoded).decode()
    try:
        return ast.parse(f"({source})")
    except SyntaxError:
        return ast.parse(source.strip())


def assignment_before(role: str, frame: FrameType, name: str | None) -> SourceLocation | None:
    """Return the last line before the use of a variable that assigns to it, if there is one."""
    if not name or not name.isidentifier():
        return None
    file, found = frame.f_code.co_filename, None
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return None
    before = frame.f_lineno or 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and node.lineno < before and (found is None or node.lineno > found):
            is_assigned = any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
            found = node.lineno if is_assigned else found
    return None if found is None else SourceLocation(role, file, found, frame.f_code.co_name)
