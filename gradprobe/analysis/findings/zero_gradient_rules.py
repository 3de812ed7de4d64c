"""Rules about gradients that arrive and are always zero, because an operator on their way has the derivative zero."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.findings.catalogue import NOTE
from gradprobe.analysis.findings.evidence import Evidence, is_library
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.flow_lines import begin_with_names, locate_way, make_finding
from gradprobe.analysis.flow_graph import FlowGraph, shorten_op
from gradprobe.history.leaf_uses import LeafUse
from gradprobe.recording.flow import CARRIED

_STEPWISE = frozenset(("round", "floor", "ceil", "trunc", "sign", "sgn"))
"""Operators with constant results between jumps. Autograd records them, and their derivative is zero."""
_MIN_STEPS = 2


def find_parameters_with_zero_gradient(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP511: the operator with the derivative zero that all ways of some parameters to the loss go through."""
    for graph in evidence.flow_graphs:
        stepwise = {number for number, site in graph.sites.items() if _is_stepwise(site.op)}
        if not stepwise:
            continue
        live = _find_live(graph, stepwise)
        found: dict[int, list[LeafUse]] = {}
        for use in graph.uses.values():
            # Gradients that the program computes by other means than a backward pass are its own affair.
            if use.number in live or use.steps_with_grad < _MIN_STEPS or use.backwards < use.steps_with_grad:
                continue
            first = next((number for number in graph.follow(use.carried) if number in stepwise), None)
            if first is not None:
                found.setdefault(first, []).append(use)
        for number, uses in found.items():
            yield _describe(graph, number, uses)


def _is_stepwise(op: str) -> bool:
    name = shorten_op(op).rstrip("_")
    # `torch.div` has these overloads for a rounding mode.
    return name in _STEPWISE or (name == "div" and op.endswith("_mode"))


def _find_live(graph: FlowGraph, stepwise: set[int]) -> set[int]:
    """Return the sites and leaves from which a way leads to a backward pass without an operator that has no slope."""
    waiting = deque(number for number in graph.sites if graph.is_sink(number))
    found = set(waiting)
    while waiting:
        current = waiting.popleft()
        if current in stepwise:
            continue
        for source, counts in graph.incoming.get(current, {}).items():
            is_way = counts[CARRIED] and (source not in graph.leaves or not graph.is_sink(current))
            if is_way and source not in found:
                found.add(source)
                waiting.append(source)
    return found


def _describe(graph: FlowGraph, number: int, uses: list[LeafUse]) -> Finding:
    site, steps = graph.sites[number], max(use.steps_with_grad for use in uses)
    name = shorten_op(site.op).rstrip("_")
    message = (
        f"{begin_with_names(uses)} had only zeros as gradients in {pluralize(steps, 'optimizer step')}: all that is "
        f"computed from them goes through `{name}` at this line, whose derivative is zero."
    )
    fix = "Let gradient pass straight through: `x + (y - x).detach()`, with this result as `y` and its input as `x`."
    text = f"{pluralize(len(uses), 'parameter')} with no other way to the loss"
    level = NOTE if is_library(site.file) else ""
    return make_finding("GP511", message, site, len(uses), locate_way(graph, uses, number), fix, text, level)


RULES = (find_parameters_with_zero_gradient,)
"""Rules of this family; a recording is checked against each."""
