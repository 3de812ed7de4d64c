"""Rules about updates that a program makes without an optimizer, and that do not reach what the model uses."""

from __future__ import annotations

from collections.abc import Iterator

from gradprobe._counted_nouns import times
from gradprobe.analysis.findings.evidence import Evidence
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.flow_lines import list_names, make_finding, relate
from gradprobe.analysis.flow_graph import FlowGraph, shorten_op
from gradprobe.history.leaf_uses import LeafUse
from gradprobe.recording.flow import BACKWARD_SITE, CARRIED, WITHOUT_GRAD, WRITTEN

_MIN_BACKWARDS = 2
_MAX_STEPS = 4
_SAME_VALUE = frozenset(
    ("detach", "clone", "alias", "flatten", "reshape", "view", "ravel", "cat", "stack", "to", "_to_copy", "contiguous")
)
_UPDATING = ("sub", "add", "sub_", "add_", "addcmul", "addcdiv", "addcmul_", "addcdiv_", "lerp", "lerp_", "rsub")


def find_rebound_leaves(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP516: the line whose result takes the place of a leaf, where the leaf was used and where backward began."""
    for graph in evidence.flow_graphs:
        gradients = _find_gradients(graph)
        by_site: dict[int, list[tuple[LeafUse, int]]] = {}
        made_leaves = {leaf.made_at for leaf in graph.leaves.values()}
        for use in graph.uses.values():
            if use.steps or use.is_updated or not use.backwards:
                continue
            for number, counts in graph.outgoing.get(use.number, {}).items():
                if number not in graph.sites or number in made_leaves or counts[WRITTEN]:
                    continue
                if gradients & graph.incoming[number].keys():
                    for consumer in _find_common_consumers(graph, use, number)[:1]:
                        by_site.setdefault(number, []).append((use, consumer))
        for number, entries in by_site.items():
            yield _describe_rebound(graph, number, entries)


def _find_common_consumers(graph: FlowGraph, use: LeafUse, number: int) -> list[int]:
    """Return the sites that take the leaf in one iteration and the result of a site in another one."""
    taken = graph.outgoing.get(number, {})
    return [site for site in use.carried if site in taken and site != number and not graph.is_sink(site)]


def _describe_rebound(graph: FlowGraph, number: int, entries: list[tuple[LeafUse, int]]) -> Finding:
    uses, consumer = [use for use, _ in entries], entries[0][1]
    edge = graph.outgoing[number][consumer]
    is_cut = edge[WITHOUT_GRAD] > edge[CARRIED]
    used = edge[WITHOUT_GRAD] if is_cut else edge[CARRIED]
    what = (
        "does not require grad, so it gets no gradient"
        if is_cut
        else "is not a leaf, so its `.grad` stays None, and its graph leads through all updates before it"
    )
    message = (
        f"The result of this update takes the place of {_list_known(uses)}, and was used {times(used)} in that place. It "
        f"{what}: training stops after one update."
    )
    related = [relate(graph.sites[consumer], "used here")]
    related += [relate(site, "backward called here") for site in graph.sinks[:1]]
    return make_finding(
        "GP516", message, graph.sites[number], used, related, "", f"used {times(used)} after the update"
    )


def find_lost_updates(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP517: the line that computes new values of parameters which nothing takes."""
    for graph in evidence.flow_graphs:
        gradients = _find_gradients(graph)
        leaves = {
            use.number
            for use in graph.uses.values()
            if use.backwards >= _MIN_BACKWARDS
            and not (use.steps or use.is_updated or _is_written_often(use) or use.grads)
        }
        for number, site in graph.sites.items():
            if shorten_op(site.op) not in _UPDATING or not gradients & graph.incoming.get(number, {}).keys():
                continue
            if any(target != number for target in graph.outgoing.get(number, {})):
                continue
            updated = [graph.uses[leaf] for leaf in _find_sources(graph, number, gradients) if leaf in leaves]
            updates = max((sum(counts) for counts in graph.incoming[number].values()), default=0)
            if not updated or updates < _MIN_BACKWARDS:
                continue
            message = (
                f"This computes new values of {list_names(updated)} from their gradients {times(updates)}, and nothing "
                "uses the result: the parameters that the forward pass uses stay as they are."
            )
            related = [
                relate(graph.sites[each], "parameter used here") for use in updated[:1] for each in use.carried[:1]
            ]
            related += [relate(sink, "backward called here") for sink in graph.sinks[:1]]
            yield make_finding(
                "GP517", message, site, updates, related, "", f"{updates:,} updates, none of which is used"
            )


def _list_known(uses: list[LeafUse]) -> str:
    named = [use for use in uses if use.leaf.name]
    return list_names(named) if named else f"{len(uses):,} leaves" if len(uses) > 1 else "a leaf"


def _is_written_often(use: LeafUse) -> bool:
    """Return whether a leaf is written as iterations go on, and not only as it is initialized."""
    return 2 * use.writes >= use.backwards


def _find_gradients(graph: FlowGraph) -> set[int]:
    """Return the backward passes, and the sites that only scale, clip or reshape what these have computed."""
    found = {number for number, site in graph.sites.items() if site.op == BACKWARD_SITE}
    for _ in range(_MAX_STEPS):
        onward = {target for number in found for target in graph.outgoing.get(number, ())} - found
        found |= {
            number
            for number in onward
            if number in graph.sites
            and not graph.is_step(number)
            and not graph.is_sink(number)
            and not any(source in graph.leaves for source in graph.incoming[number])
            and shorten_op(graph.sites[number].op) not in _UPDATING
        }
    return found


def _find_sources(graph: FlowGraph, number: int, gradients: set[int]) -> list[int]:
    """Return the leaves whose values a site takes as they are, directly or through copies and views."""
    waiting, found, leaves = [number], {number}, list[int]()
    for _ in range(_MAX_STEPS):
        onward = []
        for current in waiting:
            for source in graph.incoming.get(current, ()):
                if source in graph.leaves:
                    leaves.append(source)
                elif source in graph.sites and source not in found | gradients:
                    if shorten_op(graph.sites[source].op) in _SAME_VALUE:
                        onward.append(source)
                    found.add(source)
        waiting = onward
    return list(dict.fromkeys(leaves))


RULES = (find_rebound_leaves, find_lost_updates)
"""Rules of this family; a recording is checked against each."""
