"""Backward passes that owe gradients to parameters, and which of several cuts keeps these passes from reaching them.

A program may detach the same result rightly before one loss and wrongly before another, as those of a GAN, of an actor and
its critic, or of two stages are. What matters is the pass whose gradients the optimizer of the parameters waits for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from gradprobe.analysis.flow_graph import Cut, FlowGraph, shorten_op
from gradprobe.history.leaf_uses import LeafUse
from gradprobe.recording.flow import CARRIED, NOT_DIFFERENTIABLE, WRITTEN

_INDEXED = frozenset(("embedding", "index", "index_select", "gather", "take", "take_along_dim", "scatter", "one_hot"))
_SHAPING = frozenset(
    ("view", "reshape", "_unsafe_view", "squeeze", "unsqueeze", "expand", "alias", "flatten", "clone", "_to_copy")
)


def rank_passes(graph: FlowGraph, uses: Sequence[LeafUse]) -> list[int]:
    """Return the backward passes, those first that most likely precede the steps of the optimizers of some parameters.

    A pass precedes another step if that one takes its gradients. Of the other passes the last one before the step, in the
    function that steps, comes first.
    """
    steps = {n for use in uses for n in graph.outgoing.get(use.number, {}) if graph.is_step(n)}
    sinks = [number for number in graph.sites if graph.is_sink(number)]
    return sorted(sinks, key=lambda sink: (_serves_others(graph, sink, steps), _distance(graph, sink, steps)))


def is_owing(graph: FlowGraph, number: int) -> bool:
    """Return whether a pass was meant for parameters that never got a gradient, because their results are cut from it."""
    starved = (use for use in graph.uses.values() if use.steps_without_grad and not use.steps_with_grad)
    return any(rank_passes(graph, [use])[0] == number and graph.find_cuts(use) for use in starved)


def choose_cut(graph: FlowGraph, use: LeafUse, cuts: Sequence[Cut]) -> Cut:
    """Return the cut on the way to the pass that owes a parameter its gradient."""
    # What cuts explains the steps only if it did so as often: an evaluation runs under a mode too.
    often = [cut for cut in cuts if cut.count >= use.steps] or list(cuts)
    often = [cut for cut in often if not _chooses(graph, cut)] or often
    passes = rank_passes(graph, [use])
    if len(often) == 1 or len(passes) < 2:
        return often[0]
    return min(often, key=lambda cut: _rank_cut(graph, cut, passes))


def _chooses(graph: FlowGraph, cut: Cut) -> bool:
    """Return whether a cut only makes indices, by which other operators choose values: it is not the values' own way."""
    if cut.passage != NOT_DIFFERENTIABLE or graph.is_sink(cut.site):
        return False
    waiting, found, is_index = deque([cut.site]), {cut.site}, False
    while waiting:
        for target in graph.outgoing.get(waiting.popleft(), {}):
            op = shorten_op(graph.sites[target].op) if target in graph.sites else ""
            if op in _SHAPING and target not in found:
                found.add(target)
                waiting.append(target)
            elif op in _INDEXED:
                is_index = True
            elif op not in _SHAPING and target in graph.leading_to_sinks:
                return False
    return is_index


def _rank_cut(graph: FlowGraph, cut: Cut, passes: list[int]) -> tuple[int, bool]:
    reached = _find_passes_after(graph, cut.site)
    rank = next((rank for rank, number in enumerate(passes) if number in reached), len(passes))
    # The lines of a module that both losses are computed with lead to both passes.
    return rank, rank == len(passes) or not _precedes(graph, cut.site, passes[rank])


def _find_passes_after(graph: FlowGraph, start: int) -> set[int]:
    """Return the passes that begin at what is computed from the result of a site, with or without grad."""
    waiting, found = deque([start]), {start}
    while waiting:
        for target in graph.outgoing.get(waiting.popleft(), {}):
            if target not in found and target in graph.leading_to_sinks:
                found.add(target)
                if not graph.is_sink(target):
                    waiting.append(target)
    return {number for number in found if graph.is_sink(number)}


def _precedes(graph: FlowGraph, number: int, sink: int) -> bool:
    """Return whether a site comes before a pass in its function, without another pass between them."""
    at, end = graph.sites[number], graph.sites[sink]
    others = [s.line for s in graph.sinks if (s.file, s.function) == (end.file, end.function) and s != end]
    is_here = (at.file, at.function) == (end.file, end.function) and at.line <= end.line
    return is_here and not any(at.line <= line < end.line for line in others)


def _serves_others(graph: FlowGraph, sink: int, steps: set[int]) -> bool:
    """Return whether the gradients of a pass are taken by other steps, and not cleared before."""
    reached = {n: counts for n, counts in graph.incoming.get(sink, {}).items() if n in graph.leaves and counts[CARRIED]}
    stepped = {
        n: {step for step in graph.outgoing.get(n, {}) if graph.is_step(step)}
        for n, counts in reached.items()
        if 2 * counts[WRITTEN] <= counts[CARRIED]
    }
    return any(stepped.values()) and not any(found & steps for found in stepped.values())


def _distance(graph: FlowGraph, sink: int, steps: set[int]) -> float:
    at = graph.sites[sink]
    lines = [s.line for s in (graph.sites[n] for n in steps) if (s.file, s.function) == (at.file, at.function)]
    return min((line - at.line for line in lines if line >= at.line), default=float("inf"))
