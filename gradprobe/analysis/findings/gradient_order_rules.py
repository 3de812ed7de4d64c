"""Rules about gradients that lines change at the wrong time: after the step, before the pass, or while they are scaled.

What stands for a gradient changes as the program goes on: the backward pass that gave it, the line that wrote it, the step
that took it. A way from one of these to another says in which order they came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from gradprobe._counted_nouns import times
from gradprobe.analysis.findings.evidence import Evidence, is_library
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.flow_lines import locate_clearing, make_finding, relate
from gradprobe.analysis.findings.syntax import parse_file
from gradprobe.analysis.flow_graph import FlowGraph, shorten_op
from gradprobe.recording.flow import WRITTEN

_MIN_TIMES = 2
_CLAMPING = ("clamp_", "clamp_min_", "clamp_max_", "_foreach_clamp_min_", "_foreach_clamp_max_")
_SCALING = ("mul_", "div_", "_foreach_mul_", "_foreach_div_")
_NORMS = ("norm", "linalg_vector_norm", "_foreach_norm")
_UNSCALING = "_amp_foreach_non_finite_check_and_unscale_"


def find_mistimed_changes(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP521: the line that changes gradients, and the line that it should come before or after."""
    for graph in evidence.flow_graphs:
        for number, site in graph.sites.items():
            changed = _list_changed(graph, number)
            if not changed or is_library(site.file) or _is_unlimited(graph, number):
                continue
            steps = [source for source in changed if graph.is_step(source)]
            if steps and all(graph.is_step(n) or graph.is_sink(n) for n in changed) and _is_vain(graph, number):
                yield _describe_late(graph, number, steps[0], changed[steps[0]])
            elif all(_clears_gradients(graph, source) for source in changed) and _limits(graph, number):
                yield _describe_early(graph, number, changed)
            elif any(map(graph.is_sink, changed)) and _limits(graph, number):
                unscaling = [n for n in _list_writes_from(graph, number) if _is_one_of(graph, n, (_UNSCALING,))]
                if unscaling:
                    yield _describe_scaled(graph, number, unscaling[0], max(changed.values()))


def _list_changed(graph: FlowGraph, number: int) -> dict[int, int]:
    """Return what stands for the gradients that a site writes in place without clearing them, and how often it does."""
    if graph.is_sink(number) or graph.is_step(number) or graph.clears(number):
        return {}
    edges = graph.incoming.get(number, {}).items()
    return {n: counts[WRITTEN] for n, counts in edges if n in graph.sites and counts[WRITTEN] >= _MIN_TIMES}


def _is_one_of(graph: FlowGraph, number: int, ops: tuple[str, ...]) -> bool:
    return number in graph.sites and shorten_op(graph.sites[number].op) in ops


def _is_unlimited(graph: FlowGraph, number: int) -> bool:
    """Return whether a line clips to infinity, as one does that only wants the norm."""
    site = graph.sites[number]
    source = parse_file(site.file)
    return source is not None and source.names_infinity(site.line)


def _is_vain(graph: FlowGraph, number: int) -> bool:
    """Return whether nothing takes what a site writes, or what is written over it: no pass, no step, and no other line."""
    used = {source for source, _ in graph.gradient_ways}
    for current in _list_writes_from(graph, number):
        reads = (any(c[:WRITTEN]) for n, c in graph.outgoing.get(current, {}).items() if not graph.clears(n))
        if current in used or any(reads):
            return False
    return True


def _list_writes_from(graph: FlowGraph, number: int) -> list[int]:
    """Return a site that writes in place and those that write over its result, in their order."""
    waiting, found = deque([number]), dict.fromkeys([number])
    while waiting:
        for target, counts in graph.outgoing.get(waiting.popleft(), {}).items():
            if counts[WRITTEN] and not graph.clears(target) and target not in found:
                found[target] = None
                waiting.append(target)
    return list(found)


def _clears_gradients(graph: FlowGraph, number: int) -> bool:
    """Return whether a site clears what backward passes gave, or steps have taken."""
    if not graph.clears(number):
        return False
    return any(graph.is_sink(source) or graph.is_step(source) for source in graph.incoming.get(number, {}))


def _limits(graph: FlowGraph, number: int) -> bool:
    """Return whether a site limits gradients: clamps them, or multiplies them by what their norm says."""
    if _is_one_of(graph, number, _CLAMPING):
        return True
    at = graph.sites[number]
    here = (n for n, site in graph.sites.items() if (site.file, site.line) == (at.file, at.line))
    return _is_one_of(graph, number, _SCALING) and any(_is_one_of(graph, n, _NORMS) for n in here)


def _describe_late(graph: FlowGraph, number: int, step: int, count: int) -> Finding:
    site, at = graph.sites[number], graph.sites[step]
    message = (
        "This changes gradients after the optimizer has stepped with them, and nothing uses the result before it is "
        "cleared: the step applied the gradients as they were."
    )
    related = [relate(at, "optimizer steps here"), *locate_clearing(site)]
    fix = "Move it between `backward()` and `step()`."
    return make_finding(
        "GP521", message, site, count, related, fix, f"gradients changed after their step {times(count)}"
    )


def _describe_early(graph: FlowGraph, number: int, changed: dict[int, int]) -> Finding:
    site = graph.sites[number]
    message = (
        "This limits gradients that have just been cleared: all of them are zero. The gradients that the next backward "
        "pass adds are not limited."
    )
    related = [relate(graph.sites[source], "gradients cleared here") for source in changed]
    related += [
        relate(graph.sites[sink], "backward called here") for source, sink in graph.gradient_ways if source == number
    ]
    fix = "Move it between `backward()` and `step()`."
    count = max(changed.values())
    return make_finding("GP521", message, site, count, related, fix, f"zero gradients limited {times(count)}")


def _describe_scaled(graph: FlowGraph, number: int, unscaling: int, count: int) -> Finding:
    site = graph.sites[number]
    message = (
        "This limits gradients while they are still multiplied by the loss scale. They are divided by it later, so that "
        "the limit is a different one in effect, and changes with the scale."
    )
    related = [relate(graph.sites[unscaling], "gradients unscaled here")]
    related += [relate(sink, "backward called here") for sink in graph.sinks[:1]]
    fix = "Call `scaler.unscale_(optimizer)` before it."
    return make_finding("GP521", message, site, count, related, fix, f"scaled gradients limited {times(count)}")


RULES = (find_mistimed_changes,)
"""Rules of this family; a recording is checked against each."""
