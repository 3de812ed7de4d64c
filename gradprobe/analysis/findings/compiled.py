"""Modes meeting compilers."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator

from gradprobe.analysis.findings.evidence import Evidence, Seen, is_library
from gradprobe.analysis.findings.finding import Finding, Place
from gradprobe.analysis.findings.source import Function, decorator_of, manager_of, source_of, within

_KINDS = 3
"""A function that is trained and evaluated has two."""


def recompilations(evidence: Evidence) -> Iterator[Finding]:
    """GP301: the compiled function, and the calls that it was compiled anew for."""
    functions: dict[tuple[str, int], list[Seen]] = defaultdict(list)
    for seen in evidence.of("GP301"):
        functions[seen.main.file, seen.main.line].append(seen)
    for (file, line), compiled in functions.items():
        kinds = {(seen.sighting.facts.get("mode"), seen.sighting.facts.get("inference_tensor")) for seen in compiled}
        if len(kinds) >= _KINDS:
            message = (
                f"this function was compiled {sum(seen.count for seen in compiled)} times, for {len(kinds)} combinations "
                "of a mode and a kind of tensor."
            )
            related = tuple(place for seen in compiled for place in seen.related)
            yield Finding("GP301", message, file, line, compiled[0].main.function, 1, related)


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
