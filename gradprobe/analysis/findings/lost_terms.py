"""Terms of a loss whose graph was lost on the way: in a mode, by ``detach()``, or as numbers or an array and back.

The parameters behind such a term get gradients by the other terms of the loss, so none of them lacks one.
"""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from gradprobe.analysis.findings.syntax import FunctionNode, get_last_name, parse_file, walk_scope
from gradprobe.analysis.flow_graph import Cut, FlowGraph, shorten_op
from gradprobe.recording.flow import (
    CARRIED,
    CUT_BY_DETACH,
    CUT_BY_NO_GRAD,
    CUTS,
    NOT_DIFFERENTIABLE,
    UNKNOWN_SITE,
    WITHOUT_GRAD,
    WRITTEN,
)

EXITS = frozenset(("numpy", "item", "tolist", "_local_scalar_dense"))
"""Operators by which values leave autograd as numbers or an array."""
NEW_TENSOR = "lift_fresh"
"""Operator that `torch.tensor` and `torch.from_numpy` call for each tensor that they make."""
NEW_FROM_NUMBERS = "detach_"
"""Operator that gives what `torch.tensor` returns."""
_MIN_TIMES, _MIN_SHARE = 2, 8
_REDUCING = frozenset(("mean", "sum", "norm", "linalg_vector_norm", "kl_div", "dist", "nansum", "nanmean"))
_ADDING = frozenset(("add", "add_"))
_CHOOSING = EXITS | frozenset(("multinomial", "bernoulli", "normal", "argmax", "argmin", "argsort", "topk", "sort"))
"""Operators whose results are samples, indices or numbers: what takes these does not use the values themselves."""


class LostTerm(NamedTuple):
    """A term: the sum that takes it and the operand, where its graph was lost, and where its values came back.

    ``constants`` are the sites behind the operand whose results never have a graph, the nearest first. ``back`` is 0 if the
    values did not leave autograd.
    """

    join: int
    operand: int
    cut: Cut
    constants: tuple[int, ...]
    back: int = 0


def find_lost_terms(graph: FlowGraph, join: int, keeping: frozenset[str]) -> Iterator[LostTerm]:
    """Yield the operands of a sum that have no graph, though what trains with the sum has computed them.

    Args:
        graph: The flow.
        join: The site of the sum.
        keeping: Operators whose result is proportional to each of their operands.
    """
    if not _carries(graph, join):
        return
    for operand, counts in graph.incoming[join].items():
        is_constant = operand in graph.sites and counts[WITHOUT_GRAD] >= _MIN_TIMES and not counts[CARRIED]
        constants = _list_constants(graph, operand) if is_constant else []
        if _starves(graph, constants):
            continue
        is_reduced = bool(constants) and _is_reduced(graph, operand, keeping)
        for number in constants:
            for cut, back in _find_losses(graph, number):
                if not is_reduced and not _is_added_loss(graph, cut, join, keeping):
                    continue
                is_trained = _trains_with(graph, cut.source, join)
                if (
                    is_trained
                    and not returns(graph, cut, join, keeping)
                    and not _is_used_otherwise(graph, number, join)
                ):
                    yield LostTerm(join, operand, cut, tuple(constants), back)
                    break
            else:
                continue
            break


def _carries(graph: FlowGraph, number: int) -> bool:
    return any(counts[CARRIED] for counts in graph.incoming.get(number, {}).values())


def _starves(graph: FlowGraph, constants: list[int]) -> bool:
    """Return whether sites without a graph take parameters that never get a gradient: that is what has to be said then."""
    uses = (graph.uses[source] for n in constants for source in graph.incoming.get(n, {}) if source in graph.leaves)
    return any(use.steps and not use.steps_with_grad for use in uses)


def _is_reduced(graph: FlowGraph, operand: int, keeping: frozenset[str]) -> bool:
    """Return whether an operand of a sum was reduced to one number before, as a term of a loss is.

    A sum of results that are reduced together compares them, as a divergence does, or uses one as a baseline.
    """
    waiting, found = deque([operand]), {operand}
    while waiting:
        number = waiting.popleft()
        op = shorten_op(graph.sites[number].op)
        if op in _REDUCING or "loss" in op or "cross_entropy" in op:
            return True
        for source in graph.incoming.get(number, {}) if op in keeping else ():
            if source in graph.sites and source not in found:
                found.add(source)
                waiting.append(source)
    return False


def _is_added_loss(graph: FlowGraph, cut: Cut, join: int, keeping: frozenset[str]) -> bool:
    """Return whether what is detached was reduced before, and is added: what is subtracted may be a baseline."""
    is_added = shorten_op(graph.sites[join].op) in _ADDING and cut.passage == CUT_BY_DETACH
    return is_added and cut.source in graph.sites and _is_reduced(graph, cut.source, keeping)


def _list_constants(graph: FlowGraph, operand: int) -> list[int]:
    """Return the sites behind an operand whose results never have a graph, the nearest first, and the operand itself."""
    waiting, found = deque([operand]), dict.fromkeys([operand])
    while waiting:
        for source, counts in graph.incoming.get(waiting.popleft(), {}).items():
            is_new = source in graph.sites and source not in found
            if is_new and counts[WITHOUT_GRAD] and not _carries(graph, source):
                found[source] = None
                waiting.append(source)
    return list(found)


def _find_losses(graph: FlowGraph, number: int) -> Iterator[tuple[Cut, int]]:
    """Yield where the graph was lost of what a site without a graph takes, and the site itself if values came back to it.

    An operator that runs with grad in one call and without in another has the same site for both. Where its result, which
    often has a graph, is taken by one that never has, it was computed without grad that time.
    """
    for source, counts in graph.incoming.get(number, {}).items():
        for passage in CUTS:
            if counts[passage] and passage != NOT_DIFFERENTIABLE:
                yield Cut(source, number, passage, counts[passage]), 0
        is_mixed = source in graph.sites and counts[WITHOUT_GRAD] >= _MIN_TIMES and _carries(graph, source)
        if is_mixed and any(cut.passage == CUT_BY_NO_GRAD for cut in graph.trace_back(source)):
            yield Cut(source, number, CUT_BY_NO_GRAD, counts[WITHOUT_GRAD]), 0
    for back in _find_returns(graph, number):
        for cut in _find_exits(graph, back):
            yield cut, back


def _find_returns(graph: FlowGraph, number: int) -> list[int]:
    """Return the sites where numbers or arrays become the tensor that a site makes or takes.

    A tensor over an array is made by no operator, and is of unknown origin to what takes it, as the Python number in a sum
    or product of tensors is.
    """
    here, edges = graph.sites[number], graph.incoming.get(number, {})
    made = [n for n, site in graph.sites.items() if shorten_op(site.op) == NEW_TENSOR]
    if UNKNOWN_SITE in edges or shorten_op(here.op) == NEW_FROM_NUMBERS:
        at_line = [n for n in made if (graph.sites[n].file, graph.sites[n].line) == (here.file, here.line)]
        return at_line or (made if len(edges) == 1 or not here.op.endswith(".Tensor") else [])
    return []


def _find_exits(graph: FlowGraph, back: int) -> Iterator[Cut]:
    """Yield where values that have a graph leave autograd in the function in which values come back, or in one it calls."""
    here = graph.sites[back]
    parsed = parse_file(here.file)
    scope = None if parsed is None else parsed.find_scope_at(here.line)
    calls = walk_scope(scope, ast.Call) if isinstance(scope, FunctionNode) else ()
    functions = {here.function.rpartition(".")[2]}
    functions |= {get_last_name(call.func) for call in calls if isinstance(call, ast.Call)}
    for exit_, site in graph.sites.items():
        is_near = site.file == here.file and site.function.rpartition(".")[2] in functions
        if shorten_op(site.op) in EXITS and is_near:
            yield from graph.cuts_at(exit_)
            yield from graph.trace_back(exit_)
            for source, counts in graph.incoming.get(exit_, {}).items():
                if source in graph.sites and counts[WITHOUT_GRAD] >= _MIN_TIMES and _carries(graph, source):
                    yield Cut(source, exit_, NOT_DIFFERENTIABLE, counts[WITHOUT_GRAD])


def _trains_with(graph: FlowGraph, source: int, join: int) -> bool:
    """Return whether some parameters behind a site are trained by the backward pass to which a sum leads.

    A loss reaches others too, whose optimizer clears what it gives them before its own pass. One line may start the passes
    of both, as that of a helper does, and one of the two may have several passes for each of the other.
    """
    behind = [source] if source in graph.leaves else graph.find_leaves([source])
    sinks = graph.find_sinks([join])
    return any(
        _MIN_SHARE * counts[WRITTEN] < counts[CARRIED]
        for leaf in behind
        if graph.uses[leaf].steps_with_grad
        for sink in sinks
        if (counts := graph.outgoing[leaf].get(sink)) is not None
    )


def returns(graph: FlowGraph, cut: Cut, join: int, keeping: frozenset[str]) -> bool:
    """Return whether the value that a cut is made at goes on with grad to the sum, or has a pass of its own.

    ``x - x.detach()`` takes only the gradient of a value, and a total that is printed contains what was trained already.
    """
    waiting, found = deque([cut.source]), {cut.source}
    while waiting:
        for target, counts in graph.outgoing.get(waiting.popleft(), {}).items():
            if not counts[CARRIED]:
                continue
            if target == join or graph.is_sink(target):
                return cut.source not in graph.leaves
            is_kept = target in graph.sites and shorten_op(graph.sites[target].op) in keeping
            if is_kept and target not in found:
                found.add(target)
                waiting.append(target)
    return False


def _is_used_otherwise(graph: FlowGraph, number: int, join: int) -> bool:
    """Return whether values without a graph also enter what has one, as the target does of which a term is the entropy."""
    waiting, found, at = deque([number]), {number}, graph.sites[join]
    while waiting:
        for target, counts in graph.outgoing.get(waiting.popleft(), {}).items():
            is_join = target in graph.sites and graph.sites[target][:4] == at[:4]
            if target in found or is_join or target not in graph.leading_to_sinks or not counts[WITHOUT_GRAD]:
                continue
            if _carries(graph, target):
                return True
            found.add(target)
            if shorten_op(graph.sites[target].op) not in _CHOOSING:
                waiting.append(target)
    return False
