"""Edits of source that remove a finding, each where the source shows that it does what the author meant.

An edit changes the lines of one finding and nothing above them. Where anything is in doubt there is no edit.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.syntax import FunctionNode, get_first_line, walk_scope
from gradprobe.analysis.imported_names import ImportedNames
from gradprobe.scan.set_modes import SetMode, read_set_mode
from gradprobe.scan.source_text import SourceText

_SUSPENDS = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.Yield, ast.YieldFrom)
_TRAINS = frozenset(
    ("backward", "grad", "requires_grad_", "requires_grad", "retain_grad", "zero_grad", "step", "fit", "train")
)
"""Names whose use says that the code needs gradients after all."""


@dataclass(frozen=True)
class Edit:
    """An edited file, and what was done in words. An unsafe edit may change what the callers of a function see."""

    text: SourceText
    action: str
    is_unsafe: bool = False


def find_edit(finding: Finding, text: SourceText) -> Edit | None:
    """Return the edit that removes a finding from its file, or None if none is certain."""
    edit = _EDITS.get(finding.rule)
    if edit is None or finding.line is None:
        return None
    imports = (node for node in ast.walk(text.tree) if isinstance(node, ast.Import | ast.ImportFrom))
    return edit(finding.line, text, ImportedNames(imports))


def _enter_for_the_rest(line: int, text: SourceText, names: ImportedNames) -> Edit | None:
    """Turn a statement that only creates a context manager into a block of the statements after it."""
    statement = text.find_at(line, ast.Expr)
    if statement is None or names.resolve_manager(statement.value) is None or not _is_alone(statement, text):
        return None
    rest = _find_rest(statement, text)
    if rest is None or (any(map(_needs_gradients, rest)) and not _enables_grad(statement.value, names)):
        return None
    return _wrap(statement, rest, text)


def _scope_for_the_rest(line: int, text: SourceText, names: ImportedNames) -> Edit | None:
    """Turn ``set_grad_enabled(False)`` as a statement into a block. A caller may rely on the mode that was left."""
    statement = text.find_at(line, ast.Expr)
    if statement is None or names.resolve_manager(statement.value) is None or not _is_alone(statement, text):
        return None
    rest = _find_rest(statement, text)
    if rest is None or any(map(_needs_gradients, rest)):
        return None
    return replace(_wrap(statement, rest, text), is_unsafe=True)


def _move_into_body(line: int, text: SourceText, names: ImportedNames) -> Edit | None:
    """Turn the decorator of an ``async def`` that awaits nothing into a block of its whole body."""
    functions = (node for node in ast.walk(text.tree) if isinstance(node, ast.AsyncFunctionDef))
    at_line = ((each, d) for each in functions for d in each.decorator_list if d.lineno == line)
    function, decorator = next(at_line, (None, None))
    if function is None or decorator is None or names.resolve_manager(decorator) is None or _suspends(function):
        return None
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    is_plain = decorator.end_lineno == line and not text.find_comment(line) and _is_constant(decorator)
    if not is_plain or not body or not text.begins_line(body[0]):
        return None
    if any(map(_needs_gradients, body)) and not _enables_grad(decorator, names):
        return None
    first, last = _find_first_line(body[0], text), text.find_block_end(body[-1])
    block = f"{text.get_indent(body[0].lineno)}with {_write_call(decorator, text)}:{text.get_end(line)}"
    edited = text.indent(first, last, _get_unit(text, function)).substitute(first, first - 1, [block])
    return Edit(edited.substitute(line, line, []), f"the body of {function.name} is a block of its mode")


def _remove_block(line: int, text: SourceText, names: ImportedNames) -> Edit | None:
    """Remove a block that sets the mode which the block around it has set."""
    block = text.find_at(line, ast.With)
    if block is None or len(block.items) != 1 or block.items[0].optional_vars is not None:
        return None
    expression = block.items[0].context_expr
    function = next((each for each in _iter_functions(text.tree) if block in ast.walk(each)), None)
    scope = function or text.tree
    is_laid_out = expression.end_lineno == line and text.begins_line(block.body[0]) and block.body[0].lineno > line
    if not is_laid_out or not _is_constant(expression) or not _is_surrounded(block, scope, names):
        return None
    indent, first = text.get_indent(line), _find_first_line(block.body[0], text)
    inner = text.get_indent(block.body[0].lineno)
    if not inner.startswith(indent):
        return None
    comment = text.find_comment(line)
    kept = [f"{indent}{comment}{text.get_end(line)}"] if comment else []
    edited = text.dedent(first, text.find_block_end(block.body[-1]), inner[len(indent) :])
    manager = names.resolve_manager(expression)
    return Edit(edited.substitute(line, line, kept), f"{manager} is removed: the block around it sets the same mode")


_EDITS: Mapping[str, Callable[[int, SourceText, ImportedNames], Edit | None]] = {
    "GP101": _scope_for_the_rest,
    "GP104": _enter_for_the_rest,
    "GP702": _move_into_body,
    "GP801": _remove_block,
}


def _wrap(statement: ast.Expr, rest: Sequence[ast.stmt], text: SourceText) -> Edit:
    line, comment = statement.lineno, text.find_comment(statement.lineno)
    call = _write_call(statement.value, text)
    head = f"{text.get_indent(line)}with {call}:{'  ' if comment else ''}{comment}{text.get_end(line)}"
    edited = text.indent(line + 1, text.find_block_end(rest[-1]), _find_unit(statement, text))
    return Edit(edited.substitute(line, line, [head]), f"{call} is entered for the rest of its block")


def _find_rest(statement: ast.stmt, text: SourceText) -> Sequence[ast.stmt] | None:
    """Return the statements after one in the body of its function or loop, if there are any.

    What an author means by a mode at the end of a branch, whose code goes on below it, is not certain.
    """
    for function in _iter_functions(text.tree):
        for owner in (function, *walk_scope(function, (ast.For, ast.While, ast.With))):
            body: list[ast.stmt] = getattr(owner, "body", [])
            if statement in body:
                rest = body[body.index(statement) + 1 :]
                return rest if rest and not _suspends(function) else None
    return None


def _iter_functions(tree: ast.AST) -> Iterator[FunctionNode]:
    """Yield the functions of a file, the inner ones first."""
    yield from reversed([node for node in ast.walk(tree) if isinstance(node, FunctionNode)])


def _is_alone(statement: ast.stmt, text: SourceText) -> bool:
    """Return whether a statement has its line to itself."""
    if statement.end_lineno != statement.lineno:
        return False
    code = text.lines[statement.lineno - 1].strip().removesuffix(text.find_comment(statement.lineno)).rstrip()
    return code == text.get_segment(statement)


def _is_constant(expression: ast.expr) -> bool:
    """Return whether an expression is a name, or a call whose arguments are literals."""
    if not isinstance(expression, ast.Call):
        return isinstance(expression, ast.Name | ast.Attribute)
    given = [*expression.args, *(keyword.value for keyword in expression.keywords)]
    return all(isinstance(each, ast.Constant) for each in given)


def _write_call(expression: ast.expr, text: SourceText) -> str:
    return text.get_segment(expression) + ("" if isinstance(expression, ast.Call) else "()")


def _enables_grad(expression: ast.expr, names: ImportedNames) -> bool:
    return read_set_mode(names, expression) is SetMode.GRAD


def _suspends(function: FunctionNode) -> bool:
    return next(walk_scope(function, _SUSPENDS), None) is not None


def _needs_gradients(statement: ast.stmt) -> bool:
    """Return whether a statement names something that trains, or sets a mode itself by a plain call."""
    for node in ast.walk(statement):
        name = node.attr if isinstance(node, ast.Attribute) else node.arg if isinstance(node, ast.keyword) else None
        if name in _TRAINS or name in ("set_grad_enabled", "_set_grad_enabled"):
            return True
    return False


def _is_surrounded(block: ast.With, scope: ast.AST, names: ImportedNames) -> bool:
    """Return whether nothing in a scope can change the mode between a block and the one around it."""
    if isinstance(scope, FunctionNode) and _suspends(scope):
        return False
    values = (node.value for node in ast.walk(scope) if isinstance(node, ast.Expr))
    calls = (value for value in values if isinstance(value, ast.Call))
    return not any((names.resolve(call.func) or "").endswith("set_grad_enabled") for call in calls)


def _find_first_line(statement: ast.stmt, text: SourceText) -> int:
    """Return the first line that belongs to a statement: of its decorators, or of the comments directly above it."""
    line = get_first_line(statement) if isinstance(statement, FunctionNode) else statement.lineno
    if isinstance(statement, ast.ClassDef):
        line = min([line, *(each.lineno for each in statement.decorator_list)])
    while line > 1 and text.lines[line - 2].strip().startswith("#"):
        line -= 1
    return line


def _find_unit(statement: ast.stmt, text: SourceText) -> str:
    """Return the indentation of one level in the function around a statement."""
    function = next(each for each in _iter_functions(text.tree) if statement in ast.walk(each))
    return _get_unit(text, function)


def _get_unit(text: SourceText, function: FunctionNode) -> str:
    return text.get_indent(function.body[0].lineno).removeprefix(text.get_indent(function.lineno)) or "    "
