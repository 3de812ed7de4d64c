"""Parameters of an optimizer that are only copied: the loss is computed from the copies, and they get the gradients."""

from __future__ import annotations

from collections.abc import Sequence

from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.flow_lines import find_steps, list_names, locate_construction, make_finding, relate
from gradprobe.analysis.flow_graph import Cut, FlowGraph, shorten_op
from gradprobe.history.leaf_uses import LeafUse

_MAX_LINES = 2
_COPYING = frozenset(("stack", "cat", "clone", "to", "_to_copy", "view", "reshape", "flatten", "unsqueeze", "alias"))
"""Operators that may copy parameters with grad, before the result is made a leaf."""


def find_copy(graph: FlowGraph, use: LeafUse) -> Cut | None:
    """Return where a parameter is copied into leaves that backward passes reach, if nothing else is done with it."""
    way = graph.follow(use.carried)
    if any(shorten_op(graph.sites[number].op) not in _COPYING for number in way):
        return None
    copied = (cut for cut in graph.cuts_after([use.number, *way]) if _list_copies(graph, cut.site))
    return max(copied, key=lambda cut: cut.count, default=None)


def _list_copies(graph: FlowGraph, number: int) -> list[LeafUse]:
    """Return the leaves that the line of a site made, that backward passes reached, and that no optimizer has."""
    at = graph.sites[number]
    made = {n for n, site in graph.sites.items() if (site.file, site.line) == (at.file, at.line)}
    uses = (use for use in graph.uses.values() if use.leaf.made_at in made)
    return [use for use in uses if use.backwards and not use.steps]


def describe_copy(graph: FlowGraph, number: int, uses: Sequence[LeafUse]) -> Finding:
    """Return GP511 for parameters that are copied at a site: where the copies are written, and the backward pass."""
    copies, steps = _list_copies(graph, number), max(use.steps for use in uses)
    writes = dict.fromkeys(cut.site for use in copies for cut in graph.cuts_after([use.number]))
    changed = [graph.sites[n] for n in writes if shorten_op(graph.sites[n].op).endswith("_")]
    related = [relate(site, "copy changed here") for site in changed[:_MAX_LINES]]
    related += [relate(graph.sites[use.carried[0]], "copy used here") for use in copies[:1] if use.carried]
    sinks = dict.fromkeys(n for use in copies for n in graph.outgoing[use.number] if graph.is_sink(n))
    related += [relate(graph.sites[n], "gradients of the copies computed here") for n in list(sinks)[:_MAX_LINES]]
    related += [relate(site, "optimizer steps here") for site in find_steps(graph, uses)[:1]]
    related += locate_construction(graph, uses)
    message = (
        f"{list_names(uses)} got no gradient in {graph.count_steps(steps)}: this line copies them, and the backward "
        "passes compute the gradients of the copies."
    )
    fix = (
        "Compute the loss from the parameters themselves, or from what is computed from them with grad (as "
        "`torch.func.functional_call` does), give the copies to the optimizer, or copy the gradients back to `.grad`."
    )
    text = f"0 of {steps:,} steps found a gradient; {len(uses):,} parameters are concerned"
    return make_finding("GP511", message, graph.sites[number], len(uses), related, fix, text)
