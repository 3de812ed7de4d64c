"""Modes meeting compilers."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradprobe.analysis.compiled_functions import compiled_functions, in_english
from gradprobe.analysis.findings.evidence import Evidence, is_library
from gradprobe.analysis.findings.finding import Finding, Place
from gradprobe.analysis.findings.syntax import Function, decorator_of, manager_of, source_of, within

_KINDS = 3
"""A function that is trained and evaluated has two."""


def recompilations(evidence: Evidence) -> Iterator[Finding]:
    """GP301: the compiled function, and the calls that it was compiled anew for."""
    for function in compiled_functions(evidence.processes):
        kinds = {(made.mode, made.takes_inference) for made, _ in function.graphs}
        if len(kinds) < _KINDS or function.file is None:
            continue
        why = dict.fromkeys(text for made, _ in function.graphs for r in made.reasons if (text := in_english(r)))
        message = (
            f"this function was compiled {sum(count for _, count in function.graphs)} times, for {len(kinds)} combinations "
            f"of a mode and a kind of tensor{': ' if why else ''}{'; '.join(why)}."
        )
        calls = dict.fromkeys(made.called for made, _ in function.graphs if made.called is not None)
        related = tuple(Place(called.file, called.line, called.role) for called in calls)
        yield Finding("GP301", message, function.file, function.line, function.name, 1, related)


def scripted(evidence: Evidence) -> Iterator[Finding]:
    """GP302: functions with modes in them that the program's files give to TorchScript."""
    for file in _files(evidence):
        source = source_of(file)
        if source is None:
            continue
        functions = source.functions()
        for node in ast.walk(source.tree):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) in ("torch.jit.script", "jit.script")
                and node.args
            ):
                function = functions.get(ast.unparse(node.args[0]))
                sets = None if function is None else _sets_modes(function)
                if function is not None and sets is not None:
                    message = f"{function.name} sets a mode, which TorchScript does not keep to as Python does."
                    related = (Place(file, sets, "mode set here"),)
                    yield Finding("GP302", message, file, node.lineno, function.name, 1, related)


def _sets_modes(function: Function) -> int | None:
    """The line of a function where it sets a mode."""
    decorator = decorator_of(function)
    if decorator is not None:
        return decorator.lineno
    for block in within(function, ast.With):
        if isinstance(block, ast.With) and any(manager_of(item.context_expr) for item in block.items):
            return block.lineno
    return None


def _files(evidence: Evidence) -> list[str]:
    """The program's own files that operators or managers ran in."""
    files = {str(file) for table in (evidence.tables.ops, evidence.tables.sites) for file in table["file"].dropna()}
    return sorted(file for file in files if not is_library(file))
