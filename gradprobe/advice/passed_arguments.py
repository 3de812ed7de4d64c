"""Variables that get values without an assignment: parameters of called functions, and names that patterns capture."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradprobe.advice.program_model import Scope


def list_passed(call: ast.Call, callee: Scope) -> Iterator[tuple[str, ast.expr]]:
    """Yield the parameters of a function that a call may give values to, each with the argument.

    An argument with a star may give any parameter from its position on. What has no parameter of its own is in those that
    collect the others.
    """
    if callee.function is None:
        return
    names, given = callee.parameters(), callee.function.args
    if names[:1] in (["self"], ["cls"]) and callee.class_name:
        names = names[1:]
    others = [] if given.vararg is None else [given.vararg.arg]
    starred = False
    for position, value in enumerate(call.args):
        starred = starred or isinstance(value, ast.Starred)
        targets = names[position:] + others if starred else names[position : position + 1] or others
        yield from ((name, value) for name in targets)
    known = {*names, *(each.arg for each in given.kwonlyargs)}
    named = [] if given.kwarg is None else [given.kwarg.arg]
    for keyword in call.keywords:
        if keyword.arg is None:
            yield from ((name, keyword.value) for name in (*known, *named))
        else:
            yield from ((name, keyword.value) for name in ([keyword.arg] if keyword.arg in known else named))


def list_captured(node: ast.Match) -> Iterator[str]:
    """Yield the names that the patterns of a statement capture."""
    for case in node.cases:
        for part in ast.walk(case.pattern):
            name = part.name if isinstance(part, ast.MatchAs | ast.MatchStar) else getattr(part, "rest", None)
            if isinstance(name, str):
                yield name
