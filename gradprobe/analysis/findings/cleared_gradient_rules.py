"""Rules about gradients that are computed and cleared before any optimizer takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradprobe.analysis.findings.evidence import Evidence, LocatedDetection, is_library
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.flow_lines import find_steps, list_names, locate_clearing, make_finding, relate
from gradprobe.analysis.findings.owing_passes import is_owing
from gradprobe.analysis.flow_graph import FlowGraph
from gradprobe.history.leaf_uses import LeafUse
from gradprobe.recording.flow import BACKWARD_SITE, CARRIED, WRITTEN, FlowSite

_MIN_CLEARED, _MIN_SHARE = 2, 0.75


def find_cleared_gradients(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP515: the backward pass, and the part of the graph that it goes through for nothing."""
    detections = evidence.select_detections("GP515")
    for graph in evidence.flow_graphs:
        for number, site in graph.sites.items():
            if site.op == BACKWARD_SITE:
                yield from _judge_backward(graph, number, site, detections)


def _judge_backward(
    graph: FlowGraph, number: int, site: FlowSite, detections: Sequence[LocatedDetection]
) -> Iterator[Finding]:
    reached = {n: counts for n, counts in graph.incoming.get(number, {}).items() if n in graph.leaves}
    cleared = [graph.uses[n] for n, counts in reached.items() if _is_cleared(graph.uses[n], counts)]
    if not cleared or graph.are_gradients_read(number, {use.number for use in cleared}):
        return
    seen = [each for each in detections if (each.main.file, each.main.line) == (site.file, site.line)]
    passes = max(reached[use.number][WRITTEN] for use in cleared)
    calls = [RelatedLine(at.file, at.line, at.role) for each in seen for at in each.detection.locations[1:]]
    if len(cleared) == len(reached):
        if is_owing(graph, number):
            return  # what is missing on its way is a finding of its own
        yield _describe_vain_pass(graph, site, cleared, passes)
    elif calls and not is_library(site.file):
        yield _describe_part(site, cleared, passes, calls, seen)


def _is_cleared(use: LeafUse, counts: Sequence[int]) -> bool:
    """Return whether the gradients that a pass gave a leaf were cleared nearly every time, though it is trained."""
    # What became of the gradient of the last pass is not known.
    return (
        counts[WRITTEN] >= _MIN_CLEARED
        and counts[WRITTEN] >= _MIN_SHARE * (counts[CARRIED] - 1)
        and bool(use.steps_with_grad)
    )


def _describe_vain_pass(graph: FlowGraph, site: FlowSite, cleared: list[LeafUse], passes: int) -> Finding:
    steps = find_steps(graph, cleared)[:1]
    related = [*locate_clearing(site)]
    related += [relate(step, "optimizer steps here") for step in steps]
    message = (
        f"{passes:,} backward passes from this line computed gradients for {list_names(cleared)}, and all of them were "
        "cleared before any optimizer stepped with them."
    )
    fix = "Call `zero_grad()` before this backward pass instead of after it, or leave the pass out."
    text = f"gradients of {len(cleared):,} parameters cleared in {passes:,} passes"
    return make_finding("GP515", message, site, passes, related, fix, text)


def _describe_part(
    site: FlowSite,
    cleared: list[LeafUse],
    passes: int,
    calls: list[RelatedLine],
    seen: Sequence[LocatedDetection],
) -> Finding:
    nodes = max(int(each.detection.facts.get("nodes", 0)) for each in seen)
    all_nodes = max(int(each.detection.facts.get("all", 0)) for each in seen)
    main = calls[0]
    count = sum(_count_numbers(use.leaf.shape) for use in cleared)
    message = (
        f"{passes:,} backward passes go on from here to {list_names(cleared)}, whose gradients are cleared before any "
        f"optimizer steps with them: {nodes:,} of {all_nodes:,} nodes and gradients of {count:,} elements each time."
    )
    fix = "Detach this result where it enters that loss, or compute it under `torch.no_grad()`."
    text = f"{nodes:,} nodes, gradients of {len(cleared):,} parameters cleared in {passes:,} passes"
    related = [relate(site, "backward called here"), *calls[1:]]
    return make_finding("GP515", message, site._replace(file=main.file, line=main.line), passes, related, fix, text)


def _count_numbers(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


RULES = (find_cleared_gradients,)
"""Rules of this family; a recording is checked against each."""
