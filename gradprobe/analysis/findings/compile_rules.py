"""Modes meeting compilers."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradprobe.analysis.compiled_functions import explain_recompilation, list_compiled_functions
from gradprobe.analysis.findings.evidence import Evidence, is_library
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.syntax import (
    FunctionNode,
    find_grad_decorator,
    parse_file,
    resolve_manager,
    walk_scope,
)

_KINDS = 3
"""A function that is trained and evaluated has two."""


def find_recompilations(evidence: Evidence) -> Iterator[Finding]:
    """GP301: the compiled function, and the calls that it was compiled anew for."""
    for function in list_compiled_functions(evidence.processes):
        kinds = {(made.mode, made.takes_inference) for made, _ in function.graphs}
        if len(kinds) < _KINDS or function.file is None:
            continue
        why = dict.fromkeys(
            text for made, _ in function.graphs for r in made.reasons if (text := explain_recompilation(r))
        )
        message = (
            f"this function was compiled {sum(count for _, count in function.graphs)} times, for {len(kinds)} combinations "
            f"of a mode and a kind of tensor{': ' if why else ''}{'; '.join(why)}."
        )
        calls = dict.fromkeys(made.called for made, _ in function.graphs if made.called is not None)
        related = tuple(RelatedLine(called.file, called.line, called.role) for called in calls)
        yield Finding("GP301", message, function.file, function.line, function.name, 1, related)


def find_scripted_modes(evidence: Evidence) -> Iterator[Finding]:
    """GP302: functions with modes in them that the program's files give to TorchScript."""
    for file in _files(evidence):
        source = parse_file(file)
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
                    related = (RelatedLine(file, sets, "mode set here"),)
                    yield Finding("GP302", message, file, node.lineno, function.name, 1, related)


def _sets_modes(function: FunctionNode) -> int | None:
    """The line of a function where it sets a mode."""
    decorator = find_grad_decorator(function)
    if decorator is not None:
        return decorator.lineno
    for block in walk_scope(function, ast.With):
        if isinstance(block, ast.With) and any(resolve_manager(item.context_expr) for item in block.items):
            return block.lineno
    return None


def _files(evidence: Evidence) -> list[str]:
    """The program's own files that operators or managers ran in."""
    files = {str(file) for table in (evidence.tables.ops, evidence.tables.sites) for file in table["file"].dropna()}
    return sorted(file for file in files if not is_library(file))
