"""Handlers of exceptions on the stack: whether an exception that is on its way will be caught, and by whose code.

A library may raise and catch an exception to find out what PyTorch can do. That is not a fault of the program, and only
the source of the frames on the stack shows it while the exception is raised.
"""

from __future__ import annotations

import ast
import builtins
import functools
import linecache
import os
import sysconfig
from collections.abc import Iterator, Sequence
from enum import Enum
from types import CodeType, FrameType
from typing import Any

from gradprobe.capture.location.sites import GRADPROBE_DIR, TORCH_DIR, line_span

FrameAt = tuple[FrameType, int]
"""A frame, and the offset of the instruction that it runs."""

_EXPECTING = {"raises", "assertRaises", "assertRaisesRegex"}
"""Context managers that catch an exception which the program says it expects: of pytest and unittest."""
_SUPPRESSING = "suppress"
_STDLIB = sysconfig.get_paths()["stdlib"] + os.sep


class Catcher(Enum):
    """The code that catches an exception."""

    NOBODY = "nobody"
    """No handler on the stack, or only one of a library that runs the program, such as a test runner or a thread pool."""
    PROGRAM = "program"
    """The program."""
    RAISER = "raiser"
    """The very function of the program that asks for what fails, which so finds out whether it can be had."""
    EXPECTED = "expected"
    """The program, by a block which says that it expects an exception."""
    SUPPRESSED = "suppressed"
    """The program, by `contextlib.suppress`: it does not look at the exception, and goes on after the block."""
    LIBRARY = "library"
    """A library that raised the exception itself, to find something out."""


def find_catcher(frames: Sequence[FrameAt], error: type[BaseException]) -> Catcher:
    """Return who catches an exception of type ``error`` that is raised at the end of ``frames``."""
    has_program, is_innermost = False, True
    for frame, offset in reversed(frames):
        file = frame.f_code.co_filename
        if file.startswith(GRADPROBE_DIR):
            continue
        is_program = not is_installed(file)
        has_program |= is_program
        handler = _find_handler(frame, offset, error)
        is_raiser, is_innermost = is_innermost and handler is Catcher.PROGRAM, False
        if handler is None:
            continue
        if handler in (Catcher.EXPECTED, Catcher.SUPPRESSED) or is_program:
            return Catcher.RAISER if is_raiser else handler
        return Catcher.NOBODY if has_program else Catcher.LIBRARY
    return Catcher.NOBODY


def is_installed(file: str) -> bool:
    """Return whether a file belongs to PyTorch, another installed package or Python itself, and not to the program."""
    return (
        file.startswith((TORCH_DIR, GRADPROBE_DIR))
        or f"{os.sep}site-packages{os.sep}" in file
        or f"{os.sep}dist-packages{os.sep}" in file
        or is_of_python(file)
    )


def is_of_python(file: str) -> bool:
    """Return whether a file belongs to Python's standard library."""
    packages = f"{os.sep}site-packages{os.sep}"
    return file.startswith("<frozen") or (file.startswith(_STDLIB) and packages not in file)


def _find_handler(frame: FrameType, offset: int, error: type[BaseException]) -> Catcher | None:
    line = line_span(frame.f_code, offset)[0]
    for block in reversed(_blocks_around(frame.f_code, line)):
        if isinstance(block, ast.With | ast.AsyncWith):
            if any(_name_called(item.context_expr) in _EXPECTING for item in block.items):
                return Catcher.EXPECTED
            if any(_suppresses(item.context_expr, frame, error) for item in block.items):
                return Catcher.SUPPRESSED
        elif isinstance(block, ast.Try):
            handler = next((h for h in block.handlers if _takes(h.type, frame, error)), None)
            if handler is None or any(isinstance(node, ast.Raise) for node in _walk_own(handler)):
                continue
            if not (is_installed(frame.f_code.co_filename) and _collects(handler)):
                return Catcher.PROGRAM
    return None


def _collects(handler: ast.ExceptHandler) -> bool:
    """Return whether a handler appends the exception to a list, as ``load_state_dict`` does, which raises all later."""
    appends = (
        node
        for node in _walk_own(handler)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "append"
    )
    names = (name for call in appends for argument in call.args for name in ast.walk(argument))
    return any(isinstance(name, ast.Name) and name.id == handler.name for name in names)


def _blocks_around(code: CodeType, line: int) -> list[ast.stmt]:
    """Return the ``try`` and ``with`` blocks of a function around a line, from the outside in."""
    tree = _parse(code.co_filename, len(linecache.getlines(code.co_filename)))
    if tree is None:
        return []
    scope: ast.AST | None = tree if code.co_name == "<module>" else _find_function(tree, code)
    found: list[ast.stmt] = []
    for node in () if scope is None else _walk_own(scope):
        if isinstance(node, ast.Try | ast.With | ast.AsyncWith):
            first, last = node.body[0].lineno, node.body[-1].end_lineno or node.body[-1].lineno
            if first <= line <= last:
                found.append(node)
    return sorted(found, key=lambda node: node.lineno)


@functools.lru_cache(256)
def _parse(file: str, lines: int) -> ast.Module | None:
    """Return the syntax tree of a file, which has this number of lines."""
    try:
        return ast.parse("".join(linecache.getlines(file))) if lines else None
    except (SyntaxError, ValueError, RecursionError):
        return None


def _find_function(tree: ast.Module, code: CodeType) -> ast.AST | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if code.co_firstlineno in (first, node.lineno):
                return node
    return None  # a lambda or a comprehension has no blocks


def _walk_own(scope: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function, without those of the functions and classes in it."""
    waiting = list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def _name_called(manager: ast.expr) -> str | None:
    function = manager.func if isinstance(manager, ast.Call) else None
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)


def _suppresses(manager: ast.expr, frame: FrameType, error: type[BaseException]) -> bool:
    kinds = manager.args if isinstance(manager, ast.Call) and _name_called(manager) == _SUPPRESSING else []
    return any(_takes(kind, frame, error) for kind in kinds)


def _takes(kind: ast.expr | None, frame: FrameType, error: type[BaseException]) -> bool:
    """Return whether a handler for ``kind`` takes an exception; one for a type that cannot be found is assumed to."""
    if kind is None:
        return True
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(_is_subclass(error, _look_up(one, frame)) for one in kinds)


def _is_subclass(error: type[BaseException], kind: Any) -> bool:
    if isinstance(kind, tuple):
        return any(_is_subclass(error, one) for one in kind)
    return not isinstance(kind, type) or issubclass(error, kind)


def _look_up(name: ast.expr, frame: FrameType) -> Any:
    if isinstance(name, ast.Name):
        return frame.f_globals.get(name.id, getattr(builtins, name.id, None))
    if isinstance(name, ast.Attribute):
        return getattr(_look_up(name.value, frame), "__dict__", {}).get(name.attr)
    return None
