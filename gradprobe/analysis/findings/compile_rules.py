"""Rules about grad modes in code that ``torch.compile`` and TorchScript compile."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradprobe.analysis.compiled_functions import explain_recompilation, list_compiled_functions
from gradprobe.analysis.findings.evidence import Evidence, is_library
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.syntax import FunctionNode, parse_file, walk_scope
from gradprobe.analysis.imported_names import ImportedNames

_MIN_COMBINATIONS = 3
"""Minimum number of combinations to report: a function that is both trained and evaluated has two."""


def find_recompilations(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP301: the compiled function, and the calls that it was compiled again for."""
    for function in list_compiled_functions(evidence.processes):
        kinds = {(made.mode, made.takes_inference) for made, _ in function.graphs}
        if len(kinds) < _MIN_COMBINATIONS or function.file is None:
            continue
        reasons = (reason for made, _ in function.graphs for reason in made.reasons)
        why = dict.fromkeys(text for reason in reasons if (text := explain_recompilation(reason)))
        message = (
            f"This function was compiled {sum(count for _, count in function.graphs)} times, for {len(kinds)} combinations "
            f"of grad mode and kind of tensor{': ' if why else ''}{'; '.join(why)}."
        )
        calls = dict.fromkeys(made.called for made, _ in function.graphs if made.called is not None)
        related = tuple(RelatedLine(called.file, called.line, called.role) for called in calls)
        yield Finding("GP301", message, function.file, function.line, function.name, 1, related)


def find_scripted_modes(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP302: functions that set a grad mode and that the user's files pass to TorchScript."""
    for file in _list_user_files(evidence):
        source = parse_file(file)
        if source is None:
            continue
        functions = source.index_functions()
        for node in source.calls:
            if node.args and source.names.resolve(node.func) == "torch.jit.script":
                function = functions.get(ast.unparse(node.args[0]))
                line = None if function is None else _find_set_mode(function, source.names)
                if function is not None and line is not None:
                    message = (
                        f"{function.name} sets the grad mode, but TorchScript does not preserve grad-mode semantics."
                    )
                    related = (RelatedLine(file, line, "mode set here"),)
                    yield Finding("GP302", message, file, node.lineno, function.name, 1, related)


def find_failed_compilations(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP304: the line in inference mode, the block that entered it, and the call that was compiled."""
    for located in evidence.select_detections("GP304"):
        source = parse_file(located.main.file)
        block = None if source is None else _find_block_around(source.tree, located.main.line)
        related = [*located.related]
        if block is not None:
            related.insert(0, RelatedLine(located.main.file, block, "inference mode entered here"))
        message = (
            "The compiler failed on a function that enters inference mode inside, by the operator at this line or one "
            f"after it. {located.detection.facts.get('error', '')}"
        )
        yield located.make_finding(message.rstrip(), tuple(related))


def _find_block_around(tree: ast.Module, line: int) -> int | None:
    """Return the line of the innermost block around a line that enters inference mode."""
    blocks = (
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.With)
        and node.lineno <= line <= (node.end_lineno or line)
        and any("inference_mode" in ast.unparse(item.context_expr) for item in node.items)
    )
    return max(blocks, default=None)


def _find_set_mode(function: FunctionNode, names: ImportedNames) -> int | None:
    """Return the line at which a function sets a grad mode, or None."""
    decorator = names.find_grad_decorator(function)
    if decorator is not None:
        return decorator.lineno
    for block in walk_scope(function, ast.With):
        if isinstance(block, ast.With) and any(names.resolve_manager(item.context_expr) for item in block.items):
            return block.lineno
    return None


def _list_user_files(evidence: Evidence) -> list[str]:
    """Return the files of the user's program that operators or context managers ran in."""
    files = {str(file) for table in (evidence.tables.ops, evidence.tables.sites) for file in table["file"].dropna()}
    return sorted(file for file in files if not is_library(file))


RULES = (
    find_recompilations,
    find_scripted_modes,
    find_failed_compilations,
)
"""Rules of this family; a recording is checked against each."""
