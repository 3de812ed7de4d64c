"""Variables that get values without an assignment: parameters of called functions, and names that patterns capture."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

from gradprobe.advice.program_model import Scope

ANY = "*"
"""Name of the attribute or variable that is set by a name which the source does not show."""


def list_passed(call: ast.Call, callee: Scope) -> Iterator[tuple[str, ast.expr]]:
    """Yield the parameters of a function that a call may give values to, each with the argument.

    An argument with a star may give any parameter from its position on. What has no parameter of its own is in those that
    collect the others.
    """
    given = callee.arguments
    if given is None:
        return
    names = callee.parameters
    if names[:1] in (["self"], ["cls"], ["ctx"]) and callee.class_name:
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


def takes_arguments(callee: Scope, call: ast.Call, *, is_bound: bool) -> bool:
    """Return whether a function can be called with the arguments of a call.

    Args:
        callee: The function.
        call: The call.
        is_bound: Whether it certainly is called as a method of an object.
    """
    given = callee.arguments
    if given is None:
        return False
    if any(isinstance(each, ast.Starred) for each in call.args) or any(each.arg is None for each in call.keywords):
        return True
    names = callee.parameters
    named = {each.arg for each in call.keywords}
    known = {*names, *(each.arg for each in given.kwonlyargs)}
    if given.kwarg is None and not named <= known:
        return False
    least = len(names) - len(given.defaults) - len(named & set(names))
    is_method = bool(callee.class_name)  # called with or without its object
    most = len(names) - (is_bound and is_method)
    return len(call.args) >= least - is_method and (given.vararg is not None or len(call.args) <= most)


def list_matched_attributes(node: ast.Match, list_fields: Callable[[str], list[str]]) -> set[str]:
    """Return the attributes that the patterns of a statement read from objects.

    Args:
        node: The statement.
        list_fields: Returns the fields of a class in the order of its patterns.
    """
    found: set[str] = set()
    for part in (part for case in node.cases for part in ast.walk(case.pattern)):
        if isinstance(part, ast.MatchClass):
            fields = list_fields(ast.unparse(part.cls).rpartition(".")[2])
            found.update(part.kwd_attrs, fields[: len(part.patterns)])
            if len(fields) < len(part.patterns):
                found.add(ANY)
    return found


def list_captured(node: ast.Match) -> Iterator[str]:
    """Yield the names that the patterns of a statement capture."""
    for case in node.cases:
        for part in ast.walk(case.pattern):
            name = part.name if isinstance(part, ast.MatchAs | ast.MatchStar) else getattr(part, "rest", None)
            if isinstance(name, str):
                yield name
