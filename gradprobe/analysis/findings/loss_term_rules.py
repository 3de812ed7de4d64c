"""Rules about terms of a loss that have no graph, so that the rest of the loss trains as if they were not there."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from gradprobe.analysis.cut_reasons import MODE_CUTS, CutReason, advise_not_entering, find_reason
from gradprobe.analysis.findings.evidence import Evidence, is_library
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.flow_lines import list_names, make_finding, relate
from gradprobe.analysis.findings.lost_terms import NEW_FROM_NUMBERS, NEW_TENSOR, LostTerm, find_lost_terms, returns
from gradprobe.analysis.flow_graph import FlowGraph, shorten_op
from gradprobe.recording.flow import CARRIED, NOT_DIFFERENTIABLE, WITHOUT_GRAD

_JOINING = frozenset(("add", "add_", "sub", "sub_", "rsub", "stack", "cat"))
_KEEPING = _JOINING | frozenset(
    ("mean", "sum", "neg", "mul", "mul_", "div", "div_", "clone", "view", "reshape", "squeeze", "unsqueeze", "select")
    + ("_to_copy", "expand", "alias", "t", "unbind")
)
"""Operators whose result depends on each of their operands in proportion, if at most one of them has a graph."""
_MAX_COMPUTED = 3
_ROUND_TRIP = CutReason(
    "lets values leave autograd, as numbers or an array", "Compute with operators of PyTorch on the tensor itself."
)
_VALUES = CutReason(
    "reads the values without their graphs", "Use `torch.stack` or `torch.cat` instead of `torch.tensor`."
)


def find_terms_without_graph(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP518: the line that cuts the graph of a term, where it is added to the loss, and the backward pass."""
    for graph in evidence.flow_graphs:
        known = set[int]()
        for number in graph.sites:
            if _cuts_always(graph, number):
                starts = (number, *_find_tensors_of_values(graph, number))
                joins = [
                    join
                    for join in _find_joins(graph, starts)
                    if _is_proportional(graph, join) and not _has_surrogate(graph, number, join)
                ]
                if joins:
                    known.update(joins)
                    yield _describe_term(graph, number, joins)
        yield from _find_terms_that_lost_it(evidence, graph, known)


def _find_terms_that_lost_it(evidence: Evidence, graph: FlowGraph, known: set[int]) -> Iterator[Finding]:
    """Yield the terms whose graph a mode, a detach or a way through an array ends, though their parameters train."""
    found: dict[tuple[str, int], LostTerm] = {}
    for join, site in graph.sites.items():
        is_sum = join not in known and shorten_op(site.op) in _JOINING
        if is_sum and _is_computed(graph, join) and _is_proportional(graph, join):
            for term in find_lost_terms(graph, join, _KEEPING):
                at = graph.sites[term.cut.site]
                found.setdefault((at.file, at.line), term)
    for term in found.values():
        yield _describe_lost(evidence, graph, term)


def _has_surrogate(graph: FlowGraph, number: int, join: int) -> bool:
    """Return whether a sum takes the values themselves too, as `hard - soft.detach() + soft` does for their gradient."""
    return any(returns(graph, cut, join, _KEEPING) for cut in graph.cuts_at(number))


def _cuts_always(graph: FlowGraph, number: int) -> bool:
    """Return whether the results of a site never have a graph, although its operands have one."""
    if graph.is_sink(number):
        return True
    edges = graph.incoming.get(number, {}).values()
    return any(counts[NOT_DIFFERENTIABLE] for counts in edges) and not any(counts[CARRIED] for counts in edges)


def _find_tensors_of_values(graph: FlowGraph, number: int) -> list[int]:
    """Return the sites of the tensors that a line makes of values that it reads itself, as `torch.tensor(losses)` does."""
    at = graph.sites[number]
    if shorten_op(at.op) != "item":
        return []
    sites = graph.sites.items()
    here = {n: shorten_op(site.op) for n, site in sites if (site.file, site.line) == (at.file, at.line)}
    return [n for n, op in here.items() if op == NEW_FROM_NUMBERS] if NEW_TENSOR in here.values() else []


def _find_joins(graph: FlowGraph, starts: Sequence[int]) -> list[int]:
    """Return the sums in which what is computed from results without a graph meets what has one."""
    waiting, found, joins = deque(starts), set(starts), list[int]()
    while waiting:
        for target, counts in graph.outgoing.get(waiting.popleft(), {}).items():
            if target in found or not counts[WITHOUT_GRAD] or counts[CARRIED] or not _is_computed(graph, target):
                continue
            found.add(target)
            if not any(others[CARRIED] for others in graph.incoming[target].values()):
                waiting.append(target)
            elif shorten_op(graph.sites[target].op) in _JOINING:
                joins.append(target)
    return joins


def _is_computed(graph: FlowGraph, number: int) -> bool:
    return number in graph.leading_to_sinks and not graph.is_sink(number) and not graph.is_step(number)


def _is_proportional(graph: FlowGraph, join: int) -> bool:
    """Return whether a loss grows in proportion to a sum: then a summand without a graph has no influence on gradients.

    In a difference that is squared, or in a weight that an update has changed, it has.
    """
    waiting, found = deque([join]), {join}
    while waiting:
        current = waiting.popleft()
        onward = [n for n, counts in graph.outgoing.get(current, {}).items() if counts[CARRIED]]
        if not onward:
            return False
        for target in onward:
            if graph.is_sink(target) or target in found or target not in graph.leading_to_sinks:
                continue
            if shorten_op(graph.sites[target].op) not in _KEEPING or _is_product(graph, target):
                return False
            found.add(target)
            waiting.append(target)
    return any(graph.is_sink(target) for number in found for target in graph.outgoing.get(number, ()))


def _is_product(graph: FlowGraph, number: int) -> bool:
    """Return whether two operands of a product have a graph, or one that is multiplied by itself has."""
    if shorten_op(graph.sites[number].op).rstrip("_") not in ("mul", "div"):
        return False
    taken = [counts[CARRIED] for counts in graph.incoming[number].values() if counts[CARRIED]]
    given = max((counts[CARRIED] for counts in graph.outgoing.get(number, {}).values()), default=0)
    return len(taken) > 1 or sum(taken) > given


def _describe_term(graph: FlowGraph, number: int, joins: list[int]) -> Finding:
    site, join = graph.sites[number], graph.sites[joins[0]]
    times = max(counts[WITHOUT_GRAD] for counts in graph.incoming[joins[0]].values())
    how, fix = _VALUES if _find_tensors_of_values(graph, number) else find_reason(site.op, NOT_DIFFERENTIABLE)
    main = join if is_library(site.file) else site
    where = "this line" if main is site else f"{site.file.rsplit('/', 1)[-1]}:{site.line}"
    message = (
        f"A term of the loss trains nothing: `{shorten_op(site.op)}` at {where} {how}, and what is computed from its "
        "result is only added to the rest of the loss, as a constant."
    )
    related = [relate(join, "added to the loss here")]
    related += [relate(graph.sites[sink], "backward called here") for sink in graph.find_sinks(joins)[:1]]
    text = f"the term had no graph in {times:,} of {times:,} sums"
    return make_finding("GP518", message, main, times, related, fix, text)


def _describe_lost(evidence: Evidence, graph: FlowGraph, term: LostTerm) -> Finding:
    site, join = graph.sites[term.cut.site], graph.sites[term.join]
    how, fix = _ROUND_TRIP if term.back else find_reason(site.op, term.cut.passage)
    related = []
    mode = evidence.locate_mode(site) if term.cut.passage in MODE_CUTS and not term.back else None
    if mode is not None:
        at, manager, _ = mode
        related.append(at)
        fix = advise_not_entering(manager, at.file, at.line)
    related += [relate(graph.sites[n], "values come back here") for n in (term.back,) if n]
    computed = [graph.sites[n] for n in term.constants if not is_library(graph.sites[n].file)]
    related += [relate(at, "term computed here") for at in computed[:_MAX_COMPUTED]]
    related.append(relate(join, "added to the loss here"))
    related += [relate(graph.sites[sink], "backward called here") for sink in graph.find_sinks([term.join])[:1]]
    source = term.cut.source
    behind = [graph.uses[n] for n in ([source] if source in graph.leaves else graph.find_leaves([source]))]
    times = max(counts[WITHOUT_GRAD] for counts in graph.incoming[term.join].values())
    main = join if is_library(site.file) else site
    where = "this line" if main is site else f"{site.file.rsplit('/', 1)[-1]}:{site.line}"
    message = (
        f"A term of the loss trains nothing: `{shorten_op(site.op)}` at {where} {how}, and what is computed from its "
        f"result is only added to the rest of the loss, as a constant. {list_names(behind)} get the gradient of the rest."
    )
    text = f"the term had no graph in {times:,} of {times:,} sums"
    return make_finding("GP518", message, main, times, related, fix, text)


RULES = (find_terms_without_graph,)
"""Rules of this family; a recording is checked against each."""
