"""Rules about functions whose results depend on the mode."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.findings.evidence import Evidence, LocatedDetection
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.syntax import FunctionNode, ParsedFile, parse_file

_QUESTIONS = frozenset({"is_grad_enabled", "is_inference_mode_enabled", "is_inference", "requires_grad"})


def find_mode_dependence(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP503: the line that asks for the mode, and the first lines that run under one mode only."""
    groups: dict[tuple[object, ...], list[LocatedDetection]] = {}
    for located in evidence.select_detections("GP503"):
        facts = located.detection.facts
        groups.setdefault((located.main, facts.get("one"), facts.get("other")), []).append(located)
    for group in groups.values():
        yield _describe(max(group, key=_get_difference), sum(located.count for located in group))


def _describe(located: LocatedDetection, count: int) -> Finding:
    facts, main = located.detection.facts, located.main
    functions = _find_functions(parse_file(main.file), main.line)
    asked = min((line for function in functions for line in _list_questions(function)), default=main.line)
    noise = " One of the two draws random numbers." if facts.get("random") else ""
    message = (
        f"{main.function} gives another result {facts.get('one')} than {facts.get('other')}, for the same arguments and "
        f"parameters: they differ by up to {100 * _get_difference(located):.1f} % of the largest value.{noise}"
    )
    left_out = {(main.file, asked), (main.file, main.line)}
    related = tuple(line for line in located.related if (line.file, line.line) not in left_out)
    if not related:  # the same lines with another value: one that was kept under the other mode
        kept = sorted({line for function in functions for line in _list_stores(function)})
        related = tuple(RelatedLine(main.file, line, "kept here") for line in kept)
    evidence = f"{pluralize(count, 'pair')} of calls with the same arguments gave other results"
    return Finding("GP503", message, main.file, asked, main.function, count, related, "", evidence)


def _get_difference(located: LocatedDetection) -> float:
    difference = located.detection.facts.get("difference", 0.0)
    return float(difference) if isinstance(difference, int | float) else 0.0


def _find_functions(source: ParsedFile | None, line: int) -> list[FunctionNode]:
    """Return the function at a line that asks for the mode, or those that it uses by name and that ask."""
    function = None if source is None else source.find_function_at(line)
    if source is None or function is None:
        return []
    if _list_questions(function):
        return [function]
    nodes = [node for node in ast.walk(function) if isinstance(node, ast.Attribute | ast.Name)]
    used = {node.attr if isinstance(node, ast.Attribute) else node.id for node in nodes}
    helpers = [node for node in source.functions if node.name in used]
    return [helper for helper in helpers if _list_questions(helper)]


def _list_stores(function: FunctionNode) -> list[int]:
    """Return the lines of a function that keep a value beyond its call, in an attribute or a container."""
    assigned = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
    return [node.lineno for node in assigned if isinstance(node.targets[0], ast.Attribute | ast.Subscript)]


def _list_questions(function: FunctionNode) -> list[int]:
    tests = [node.test for node in ast.walk(function) if isinstance(node, ast.If | ast.IfExp | ast.While)]
    asked = [node for test in tests for node in ast.walk(test)]
    return _list_lines(asked) or _list_lines(list(ast.walk(function)))


def _list_lines(nodes: list[ast.AST]) -> list[int]:
    return [node.lineno for node in nodes if isinstance(node, ast.Attribute | ast.Name) and _is_question(node)]


def _is_question(node: ast.Attribute | ast.Name) -> bool:
    return (node.attr if isinstance(node, ast.Attribute) else node.id) in _QUESTIONS


RULES = (find_mode_dependence,)
"""Rules of this family; a recording is checked against each."""
