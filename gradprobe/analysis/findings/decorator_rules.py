"""Rule for graphs that a decorator cuts where no optimizer steps (GP105): what an optimizer misses, another rule finds.

Passes must reach other leaves. Only leaves that get no gradient at all count: a step that assigns targets takes results of
the graph as well. A leaf itself counts only if the module's own ``forward`` calls the decorated method: a fixed target has
parameters without gradient, too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.cut_reasons import MODE_CUTS
from gradprobe.analysis.findings.evidence import Evidence
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.flow_lines import locate_way, make_finding
from gradprobe.analysis.findings.syntax import parse_file
from gradprobe.analysis.flow_graph import Cut, FlowGraph
from gradprobe.history.leaf_uses import LeafUse
from gradprobe.recording.flow import CARRIED


def find_graphs_cut_by_decorators(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP105: the operator that loses the graph, the decorator, and the way to the backward pass."""
    for graph in evidence.flow_graphs:
        lost: dict[int, list[LeafUse]] = {}
        for use in graph.uses.values():
            cut = None if use.backwards else _find_mode_cut(graph, use)
            if cut is not None:
                lost.setdefault(cut.site, []).append(use)
        for number, uses in lost.items():
            mode = evidence.locate_mode(graph.sites[number]) if _is_trained_without_steps(graph, number) else None
            if mode is None or mode[2] != "decorator":
                continue
            if any(use.carried for use in uses) or _is_called_by_forward(mode[0].file, mode[0].line):
                related = [mode[0], *locate_way(graph, uses, number)]
                text = f"0 gradients for {pluralize(len(uses), 'leaf', 'leaves')}"
                yield make_finding("GP105", _MESSAGE, graph.sites[number], len(uses), related, "", text)


def _find_mode_cut(graph: FlowGraph, use: LeafUse) -> Cut | None:
    """Return the nearest cut by a mode on the ways from a leaf to the backward passes."""
    return next((cut for cut in graph.find_cuts(use) if cut.passage in MODE_CUTS), None)


def _is_trained_without_steps(graph: FlowGraph, number: int) -> bool:
    """Return whether passes from what a site computes reach leaves, none of which belongs to an optimizer."""
    sinks = (sink for sink in graph.sites if graph.is_sink(sink) and number in graph.find_behind([sink]))
    reached = {
        source for sink in sinks for source, n in graph.incoming[sink].items() if n[CARRIED] and source in graph.leaves
    }
    return bool(reached) and not any(graph.uses[leaf].steps for leaf in reached)


def _is_called_by_forward(file: str, line: int) -> bool:
    """Return whether the function that is decorated at a line is a method that ``forward`` of its class calls."""
    source = parse_file(file)
    method = None if source is None else source.find_function_at(line)
    if source is None or method is None:
        return False
    classes = (node for node in source.classes if method in node.body)
    forwards = (
        node for c in classes for node in c.body if isinstance(node, ast.FunctionDef) and node.name == "forward"
    )
    return any(
        isinstance(node, ast.Attribute) and node.attr == method.name
        for forward in forwards
        for node in ast.walk(forward)
    )


_MESSAGE = (
    "This line runs in a function whose decorator disables grad: its inputs require grad, its result does not, and the "
    "loss is computed from its result."
)

RULES = (find_graphs_cut_by_decorators,)
"""Rules of this family; a recording is checked against each."""
