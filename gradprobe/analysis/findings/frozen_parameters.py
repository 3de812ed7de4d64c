"""Parameters that were frozen: the lines that freeze, and those that required grad earlier and do not any more."""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterable, Iterator

from gradprobe.analysis.findings.finding import RelatedLine
from gradprobe.analysis.findings.syntax import FunctionNode, ParsedFile, get_last_name, parse_file
from gradprobe.analysis.flow_graph import FlowGraph
from gradprobe.history.leaf_uses import LeafUse
from gradprobe.recording.flow import CARRIED, NOT_DIFFERENTIABLE, REQUIRES_GRAD, WITHOUT_GRAD

_MAX_LINES = 3
_ROLE = "requires_grad set to False here"


def find_frozen_since(graph: FlowGraph, number: int) -> tuple[int, list[LeafUse]] | None:
    """Return the parameters on the way to a result that required grad when it had a graph, and the site that takes them.

    A tensor that no longer requires grad is known as the result of the line that made or wrote it, not as a leaf. Gradient
    takes the way that it took before: along edges that once carried it and now do not.
    """
    waiting, found = deque([number]), {number}
    while waiting:
        current = waiting.popleft()
        if any(cut.passage != NOT_DIFFERENTIABLE for cut in graph.cuts_at(current)):
            return None
        edges = graph.incoming.get(current, {})
        without = {source for source, counts in edges.items() if counts[WITHOUT_GRAD]}
        uses = [graph.uses[source] for source, counts in edges.items() if source in graph.leaves and counts[CARRIED]]
        frozen = [use for use in uses if without & {use.leaf.made_at, *use.written}]
        if frozen:
            return current, frozen
        for source, counts in edges.items():
            if source not in found and source not in graph.leaves and counts[CARRIED] and counts[WITHOUT_GRAD]:
                found.add(source)
                waiting.append(source)
    return None


def locate_freezes(files: Iterable[str]) -> list[RelatedLine]:
    """Return the lines of some files that set ``requires_grad`` to False, or that call a function which does."""
    found = []
    for file in files:
        source = parse_file(file)
        lines = sorted(set() if source is None else {*_iter_freezes(source), *_iter_calls_of_setters(source)})
        found += [RelatedLine(file, line, _ROLE) for line in lines]
    return found[:_MAX_LINES]


def _iter_freezes(source: ParsedFile) -> Iterator[int]:
    for line, value in _iter_settings(source.tree):
        if _is_false(value):
            yield line


def _iter_settings(tree: ast.AST) -> Iterator[tuple[int, ast.expr]]:
    """Yield the lines that set ``requires_grad``, and to what."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            if any(isinstance(target, ast.Attribute) and target.attr == REQUIRES_GRAD for target in node.targets):
                yield node.lineno, node.value
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == f"{REQUIRES_GRAD}_"
        ):
            for value in (*node.args, *(keyword.value for keyword in node.keywords)):
                yield node.lineno, value


def _iter_calls_of_setters(source: ParsedFile) -> Iterator[int]:
    """Yield the lines that give False to an argument to which a function sets ``requires_grad``, or leave it so."""
    setters: dict[str, tuple[int, bool]] = {}
    for name, function in source.index_functions().items():
        names = [argument.arg for argument in function.args.args]
        given = {value.id for _, value in _iter_settings(function) if isinstance(value, ast.Name)}
        for argument in given.intersection(names):
            setters[name] = _describe_argument(function, names.index(argument), len(names))
    for node in source.calls:
        if setter := setters.get(get_last_name(node.func)):
            position, is_default = setter
            # A method is called without the argument for itself.
            values = [*node.args[max(position - 1, 0) : position + 1], *(keyword.value for keyword in node.keywords)]
            if any(map(_is_false, values)) or (is_default and len(node.args) <= position and not node.keywords):
                yield node.lineno


def _describe_argument(function: FunctionNode, position: int, number: int) -> tuple[int, bool]:
    """Return the position of an argument, and whether its default is False."""
    index = position - (number - len(function.args.defaults))
    return position, index >= 0 and _is_false(function.args.defaults[index])


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False
