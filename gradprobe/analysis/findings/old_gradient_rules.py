"""Rules about steps that take gradients which belong to an earlier step, or to another optimizer."""

from __future__ import annotations

from collections.abc import Iterator

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.findings.evidence import Evidence
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.flow_lines import list_names, locate_clearing, make_finding, relate
from gradprobe.analysis.flow_graph import FlowGraph
from gradprobe.history.leaf_uses import LeafUse
from gradprobe.recording.flow import BACKWARD_SITE, CARRIED, WRITTEN

_MIN_TIMES = 2
_MIN_SHARE_AGAIN, _MIN_SHARE_CLEARED = 0.25, 0.75


def find_gradients_taken_again(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP522: the backward pass that adds to gradients which a step has taken, and the steps."""
    for graph in evidence.flow_graphs:
        by_step: dict[int, list[LeafUse]] = {}
        for use in graph.uses.values():
            for step, counts in graph.outgoing.get(use.number, {}).items():
                again, taken = counts[WRITTEN], counts[CARRIED]
                if graph.is_step(step) and again >= _MIN_TIMES and again >= _MIN_SHARE_AGAIN * (taken - 1):
                    by_step.setdefault(step, []).append(use)
        for step, uses in by_step.items():
            yield _describe_again(graph, step, uses)


def _describe_again(graph: FlowGraph, step: int, uses: list[LeafUse]) -> Finding:
    at = graph.sites[step]
    count = max(graph.outgoing[use.number][step][WRITTEN] for use in uses)
    taken = max(graph.outgoing[use.number][step][CARRIED] for use in uses)
    adding = [sink for source, sink in graph.gradient_ways if graph.is_step(source) and _reaches(graph, sink, uses)]
    before = [source for source, sink in graph.gradient_ways if sink in adding and graph.is_step(source)]
    main = graph.sites[adding[0]] if adding else at
    related = [relate(at, "optimizer steps here")]
    related += [relate(graph.sites[source], "optimizer has stepped here") for source in before]
    related += locate_clearing(main)
    message = (
        f"This backward pass adds to gradients with which an optimizer has stepped already: {list_names(uses)} had "
        f"gradients of earlier steps in {count:,} of {pluralize(taken, 'step')}, because nothing clears them in between."
    )
    fix = "Call `zero_grad()` of the optimizer that has these parameters after each step, or before each backward pass."
    text = f"{count:,} of {pluralize(taken, 'step')} took gradients again"
    return make_finding("GP522", message, main, count, related, fix, text)


def _reaches(graph: FlowGraph, sink: int, uses: list[LeafUse]) -> bool:
    return any(use.number in graph.incoming.get(sink, {}) for use in uses)


def find_gradients_of_others(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP522: the backward pass of one optimizer's loss whose gradients another optimizer's step takes, too."""
    for graph in evidence.flow_graphs:
        for (first, step), counts in graph.gradient_ways.items():
            if not graph.is_step(step) or counts[WRITTEN] < _MIN_TIMES or graph.sites[first].op != BACKWARD_SITE:
                continue
            for second in _list_passes_after(graph, first):
                mixed, others = _compare(graph, first, second, step)
                if mixed and others:
                    yield _describe_mixed(graph, (first, second, step), mixed, others)
                    break


def _list_passes_after(graph: FlowGraph, first: int) -> list[int]:
    """Return the passes that add to the gradients of a pass."""
    return [sink for source, sink in graph.gradient_ways if source == first and sink != first and graph.is_sink(sink)]


def _compare(graph: FlowGraph, first: int, second: int, step: int) -> tuple[list[LeafUse], list[LeafUse]]:
    """Return the leaves for which a step takes the gradients of two passes, and those of which each pass has its own.

    Of a part that two losses share, such as the trunk of two heads, the sum of both is what is meant. But where the second
    pass gives gradients to what is trained by the first one, and the program clears them, each loss is to train one part.
    """
    mixed, others = list[LeafUse](), list[LeafUse]()
    for number, counts in graph.incoming[second].items():
        before = graph.incoming[first].get(number) if number in graph.leaves else None
        if before is None or not before[CARRIED]:
            continue
        use, is_kept = graph.uses[number], before[WRITTEN] < _MIN_SHARE_CLEARED * (before[CARRIED] - 1)
        if step in graph.outgoing[number]:
            mixed += [use] if is_kept else []
        elif use.steps_with_grad and counts[WRITTEN] >= max(1, _MIN_SHARE_CLEARED * (counts[CARRIED] - 1)):
            others.append(use)
    return mixed, others


def _describe_mixed(
    graph: FlowGraph, ends: tuple[int, int, int], mixed: list[LeafUse], others: list[LeafUse]
) -> Finding:
    first, second, step = ends
    main, at = graph.sites[first], graph.sites[step]
    count = graph.gradient_ways[first, step][WRITTEN]
    stepped = [graph.sites[n] for n in graph.outgoing[others[0].number] if graph.is_step(n)]
    message = (
        f"This backward pass is for what the optimizer in line {stepped[0].line} updates, but it also reaches "
        f"{list_names(mixed)}, and what it gives them is not cleared: {pluralize(count, 'step')} in line {at.line} took it "
        "together with the gradients of their own loss."
    )
    related = [relate(at, "optimizer steps here"), relate(graph.sites[second], "backward called here")]
    related += [relate(site, "optimizer has stepped here") for site in stepped]
    related += [relate(graph.sites[use.carried[0]], "parameter used here") for use in mixed[:1] if use.carried]
    related += locate_clearing(main)
    fix = "Detach what enters this loss from there, or call `zero_grad()` between this step and the next backward pass."
    text = f"{pluralize(count, 'step')} took gradients of both losses"
    return make_finding("GP522", message, main, count, related, fix, text)


RULES = (find_gradients_taken_again, find_gradients_of_others)
"""Rules of this family; a recording is checked against each."""
