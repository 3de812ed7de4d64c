"""Mode changes in the source: the condition that asks for one, and the lines that skip the one which restores it.

What ran is known from the recording; these lines are read from the files that it names.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import replace

from gradprobe.analysis.cut_reasons import NOT_ENTERING
from gradprobe.analysis.findings.catalogue import NOTE
from gradprobe.analysis.findings.evidence import is_library
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.syntax import FunctionNode, ParsedFile, parse_file, walk_scope

_MAX_EXITS = 3
_LEAVING = ("__exit__", "close", "pop_all")
_MODE_ROLES = ("mode entered here", "inference mode entered here", "grad disabled here", "mode set here")
_RULES_AT_MODES = ("GP101",)
"""Rules whose findings are at the line that changes the mode."""
_RULES_IN_CALLS = ("GP105", "GP401", "GP612")
_WORK_ROLES = ("created here", "computed here", "cut from the graph here", "cut here")
_EXITS = (ast.Return, ast.Raise, ast.Yield)
"""What can leave a function: the block that a generator of a context manager yields to may raise."""
_FIX_OF_EVALUATION = (
    "Decide about this mode by another flag than `training`, which `eval()` sets to False, or call `train()` on the module "
    "before it computes what is trained."
)
_SKIPPED_ROLE = "leaves without restoring the mode here"


def complete_modes(finding: Finding) -> Finding:
    """Add to a warning or an error what decides about the modes that it names, and what is called under them."""
    if finding.severity == NOTE:
        return finding
    known = {(finding.file, finding.line), *((at.file, at.line) for at in finding.related)}
    modes = [(at.file, at.line) for at in finding.related if at.role in _MODE_ROLES]
    if finding.rule in _RULES_AT_MODES and finding.file is not None and finding.line is not None:
        modes.append((finding.file, finding.line))
    added_lines = [at for file, line in modes for at in locate_condition(file, line)]
    if finding.rule in _RULES_IN_CALLS:
        work = [(finding.file, finding.line), *((at.file, at.line) for at in finding.related if at.role in _WORK_ROLES)]
        added_lines += [at for file, line in modes for at in locate_call(file, line, work)]
    evaluations = _locate_evaluations(modes, known)
    added_lines += evaluations
    added = tuple(dict.fromkeys(at for at in added_lines if (at.file, at.line) not in known))
    fix = _FIX_OF_EVALUATION if evaluations and finding.fix.startswith(NOT_ENTERING) else finding.fix
    return replace(finding, related=(*finding.related, *added), fix=fix) if added else finding


def _locate_evaluations(
    modes: list[tuple[str, int]], known: Iterable[tuple[str | None, int | None]]
) -> list[RelatedLine]:
    """Return the lines of the program that call ``eval()``, if it decides about a mode."""
    if not any(_follows_training(file, line) for file, line in modes):
        return []
    files = dict.fromkeys(file for file, _ in known if file is not None and not is_library(file))
    sources = [(file, source) for file in files if (source := parse_file(file)) is not None]
    return [
        RelatedLine(file, line, "eval mode set here") for file, source in sources for line in _list_evaluations(source)
    ]


def _follows_training(file: str, line: int) -> bool:
    """Return whether ``training`` of a module decides about the mode that a line enters."""
    source = parse_file(file)
    if source is None:
        return False
    block = source.find_block_at(line)
    items = [] if block is None or not block.lineno <= line <= block.body[0].lineno else block.items
    condition = _find_condition(source, source.find_scope_at(line), line)
    tests = [node.test for node in source.nodes if isinstance(node, ast.If) and node.lineno == condition]
    parts = [part for node in (*(item.context_expr for item in items), *tests) for part in ast.walk(node)]
    return any(isinstance(part, ast.Attribute) and part.attr == "training" for part in parts)


def _list_evaluations(source: ParsedFile) -> list[int]:
    calls = source.calls
    return sorted({call.lineno for call in calls if ast.unparse(call).endswith((".eval()", ".train(False)"))})[
        :_MAX_EXITS
    ]


def locate_call(file: str, line: int, work: Iterable[tuple[str | None, int | None]]) -> list[RelatedLine]:
    """Return the line in the block or function of a mode that calls the function in which work was done.

    Args:
        file: The file of the line that enters the mode.
        line: The line that enters the mode.
        work: The lines of the work, the most important first.
    """
    source = parse_file(file)
    scope = None if source is None else source.find_block_at(line) or source.find_function_at(line)
    for other, at in work:
        where = parse_file(other)
        function = None if where is None or at is None else where.find_function_at(at)
        if scope is None or function is None or function is scope or _is_inside(function, scope):
            continue
        called = [node.lineno for node in _iter_calls(scope) if _last_name(node.func) == function.name]
        if called:
            return [RelatedLine(file, min(called), "called under it here")]
    return []


def _is_inside(function: FunctionNode, scope: ast.AST) -> bool:
    return any(node is scope for node in ast.walk(function))


def locate_condition(file: str, line: int) -> list[RelatedLine]:
    """Return the ``if`` that decides whether a line enters a mode: around it, or in the function that makes the manager."""
    source = parse_file(file)
    if source is None:
        return []
    found = _find_condition(source, source.find_scope_at(line), line) or _find_condition_of_maker(source, line)
    return [] if found is None else [RelatedLine(file, found, "decided by the condition here")]


def locate_skipping(file: str, line: int, called_from: RelatedLine | None) -> list[RelatedLine]:
    """Return the lines that leave a function between the line that changes the mode and the one that restores it.

    Args:
        file: The file of the line that changes the mode.
        line: The line that changes the mode.
        called_from: The line that called the function, which restores it if the function does not.
    """
    source = parse_file(file)
    if source is None:
        return []
    function = source.find_function_at(line)
    lines = [] if function is None else _find_exits(source, function, line)
    if lines is None and called_from is not None:
        file, source = called_from.file, parse_file(called_from.file)
        caller = None if source is None else source.find_function_at(called_from.line)
        lines = [] if source is None or caller is None else _find_exits(source, caller, called_from.line)
    return [RelatedLine(file, each, _SKIPPED_ROLE) for each in (lines or [])[:_MAX_EXITS]]


def _find_condition(source: ParsedFile, scope: ast.AST, line: int) -> int | None:
    around = [
        node
        for node in walk_scope(scope, ast.If)
        if isinstance(node, ast.If) and node.lineno < line <= (node.end_lineno or 0) and not _is_guard_of_main(node)
    ]
    return max((node.lineno for node in around), default=None)


def _is_guard_of_main(node: ast.If) -> bool:
    return any(isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test))


def _find_condition_of_maker(source: ParsedFile, line: int) -> int | None:
    """Return the ``if`` around the ``return`` of a manager, in the function that the ``with`` statement on a line calls."""
    block = source.find_block_at(line)
    functions = source.index_functions()
    for item in block.items if block is not None else ():
        call = item.context_expr
        maker = functions.get(_last_name(call.func)) if isinstance(call, ast.Call) else None
        for node in walk_scope(maker, ast.Return) if maker is not None else ():
            if isinstance(node, ast.Return) and node.value is not None and source.names.resolve_manager(node.value):
                found = _find_condition(source, maker or source.tree, node.lineno)
                if found is not None:
                    return found
    return None


def _find_exits(source: ParsedFile, function: FunctionNode, line: int) -> list[int] | None:
    """Return the lines after ``line`` that leave a function before its mode is restored, None if it never is."""
    restoring = [node for node in _iter_calls(function) if node.lineno > line and _restores(node, source)]
    if not restoring:
        return None
    last = max(node.lineno for node in restoring)
    guarded = [node for node in walk_scope(function, ast.Try) if isinstance(node, ast.Try)]
    exits = [
        node.lineno
        for node in walk_scope(function, _EXITS)
        if isinstance(node, _EXITS)
        and line < node.lineno < last
        and not _is_restored_on_the_way(node, restoring, function)
        and not any(_protects(block, node.lineno, restoring) for block in guarded)
    ]
    if exits:
        return sorted(exits)
    functions = source.index_functions()
    called = [functions.get(_last_name(node.func)) for node in _iter_calls(function) if line < node.lineno < last]
    raising = (node for each in called if each is not None for node in walk_scope(each, ast.Raise))
    return sorted({node.lineno for node in raising if isinstance(node, ast.Raise)})


def _is_restored_on_the_way(exit_: ast.AST, restoring: list[ast.Call], function: FunctionNode) -> bool:
    """Return whether the block of a ``return`` restores the mode before it."""
    for node in ast.walk(function):
        for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            if isinstance(body, list) and exit_ in body:
                before = body[: body.index(exit_)]
                return any(call in restoring for each in before for call in _iter_calls(each))
    return False


def _protects(block: ast.Try, line: int, restoring: list[ast.Call]) -> bool:
    """Return whether a ``finally`` restores the mode for a line in its ``try``."""
    is_inside = block.lineno <= line <= (block.body[-1].end_lineno or line)
    return is_inside and any(call in restoring for each in block.finalbody for call in _iter_calls(each))


def _restores(call: ast.Call, source: ParsedFile) -> bool:
    """Return whether a call restores a mode, itself or in a function of the file that it calls."""
    if _restores_itself(call, source):
        return True
    called = source.index_functions().get(_last_name(call.func))
    return called is not None and any(_restores_itself(each, source) for each in _iter_calls(called))


def _restores_itself(call: ast.Call, source: ParsedFile) -> bool:
    if source.names.resolve_manager(call) == "set_grad_enabled":
        return bool(call.args) and not (isinstance(call.args[0], ast.Constant) and call.args[0].value is False)
    return isinstance(call.func, ast.Attribute) and call.func.attr in _LEAVING


def _iter_calls(node: ast.AST) -> Iterator[ast.Call]:
    if isinstance(node, ast.Call):
        yield node
    yield from (each for each in walk_scope(node, ast.Call) if isinstance(each, ast.Call))


def _last_name(function: ast.expr) -> str:
    return ast.unparse(function).rpartition(".")[2]
