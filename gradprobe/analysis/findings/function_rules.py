"""Rules about custom Functions whose forward runs, but not as its author expects.

The methods are read from the source files that the recording names; that they ran is known from the recording.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradprobe.analysis.findings.evidence import Evidence, is_library
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.syntax import ParsedFile, parse_file, walk_scope

_MAX_CALLS = 4
_FUNCTIONS = ("torch.autograd.Function", "torch.autograd.function.Function")
_QUESTIONS = ("torch.is_grad_enabled", "torch._C.is_grad_enabled")
_ENABLING = ("enable_grad", "set_grad_enabled")


def find_kept_outputs(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP632: the line that makes an output an attribute of the context, and where the Function is applied."""
    for source, owner in _iter_functions_that_ran(evidence, min_nodes=1):
        for method in _methods(owner, "forward", "setup_context"):
            for store, attribute in _iter_stored_outputs(method):
                if _is_released(owner, attribute):
                    continue
                message = (
                    f"{owner.name}.{method.name} stores its own output as `ctx.{attribute}`: the output refers to its "
                    "node, and the node to the output. Both, and all that the context keeps, stay alive until Python's "
                    "garbage collector runs, and autograd does not notice if the output is modified."
                )
                related = tuple(_locate_applications(source, owner))
                yield Finding("GP632", message, source.file, store.lineno, f"{owner.name}.{method.name}", 1, related)


def find_asked_modes(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP633: the line in a forward that asks for the grad mode, and where the Function is applied."""
    for source, owner in _iter_functions_that_ran(evidence):
        for method in _methods(owner, "forward"):
            for call in walk_scope(method, ast.Call):
                if not isinstance(call, ast.Call) or source.names.resolve(call.func) not in _QUESTIONS:
                    continue
                if any(_enables(block, call, source) for block in walk_scope(method, ast.With)):
                    continue
                message = (
                    f"{owner.name}.forward asks whether grad mode is enabled, and the answer is always False: PyTorch "
                    "calls forward with grad disabled, under any mode that the Function is applied in."
                )
                related = tuple(_locate_applications(source, owner))
                yield Finding("GP633", message, source.file, call.lineno, f"{owner.name}.forward", 1, related)


def _iter_functions_that_ran(evidence: Evidence, min_nodes: int = 0) -> Iterator[tuple[ParsedFile, ast.ClassDef]]:
    """Yield the custom Functions of the program whose forward ran, and constructed at least so many nodes."""
    ops = evidence.tables.ops
    for file in sorted({str(file) for file in ops["file"].dropna()}) if len(ops) else ():
        source = None if is_library(file) else parse_file(file)
        for owner in source.index_classes().values() if source is not None else ():
            if source is None or not any(source.names.resolve(base) in _FUNCTIONS for base in owner.bases):
                continue
            last = owner.end_lineno or owner.lineno
            rows = ops[(ops["file"] == file) & ops["line"].between(owner.lineno, last)]
            if len(rows) and int(rows["nodes"].sum()) >= min_nodes:
                yield source, owner


def _methods(owner: ast.ClassDef, *names: str) -> Iterator[ast.FunctionDef]:
    yield from (each for each in owner.body if isinstance(each, ast.FunctionDef) and each.name in names)


def _iter_stored_outputs(method: ast.FunctionDef) -> Iterator[tuple[ast.Assign, str]]:
    """Yield the assignments of an output of a Function to an attribute of its context, with the attribute's name."""
    context, outputs = _read_context(method)
    for node in walk_scope(method, ast.Assign):
        if not isinstance(node, ast.Assign):
            continue
        values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        for target in node.targets:
            is_attribute = isinstance(target, ast.Attribute) and ast.unparse(target.value) == context
            if (
                is_attribute
                and isinstance(target, ast.Attribute)
                and outputs & {ast.unparse(value) for value in values}
            ):
                yield node, target.attr


def _read_context(method: ast.FunctionDef) -> tuple[str, set[str]]:
    """Return the name of the context of a method, and the names of the Function's outputs in it."""
    arguments = [each.arg for each in method.args.args]
    assigned = [
        (part.id, node.value)
        for node in walk_scope(method, ast.Assign)
        if isinstance(node, ast.Assign)
        for target in node.targets
        for part in ast.walk(target)
        if isinstance(part, ast.Name)
    ]
    if method.name == "setup_context":
        context, output = (arguments[0], arguments[2]) if len(arguments) == 3 else ("", "")
        return context, {output, *(name for name, value in assigned if ast.unparse(value) == output)}
    returned = [node.value for node in walk_scope(method, ast.Return) if isinstance(node, ast.Return)]
    parts = [part for value in returned for part in (value.elts if isinstance(value, ast.Tuple) else [value])]
    names = {part.id for part in parts if isinstance(part, ast.Name)}
    return arguments[0] if arguments else "", names & {name for name, _ in assigned}


def _is_released(owner: ast.ClassDef, attribute: str) -> bool:
    """Return whether the backward of a Function deletes an attribute of its context, or sets it to None."""
    for method in _methods(owner, "backward"):
        for node in walk_scope(method, (ast.Delete, ast.Assign)):
            is_none = isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            targets = node.targets if isinstance(node, ast.Delete) or (isinstance(node, ast.Assign) and is_none) else []
            if any(isinstance(target, ast.Attribute) and target.attr == attribute for target in targets):
                return True
    return False


def _enables(block: ast.AST, call: ast.Call, source: ParsedFile) -> bool:
    if not isinstance(block, ast.With) or not any(node is call for node in ast.walk(block)):
        return False
    return any(source.names.resolve_manager(item.context_expr) in _ENABLING for item in block.items)


def _locate_applications(source: ParsedFile, owner: ast.ClassDef) -> list[RelatedLine]:
    calls = source.calls
    lines = sorted({call.lineno for call in calls if ast.unparse(call.func) == f"{owner.name}.apply"})
    return [RelatedLine(source.file, line, "applied here") for line in lines[:_MAX_CALLS]]


RULES = (
    find_kept_outputs,
    find_asked_modes,
)
"""Rules of this family; a recording is checked against each."""
