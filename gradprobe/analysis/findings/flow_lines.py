"""Findings about the flow of gradient: their lines, the names of parameters, and where optimizers are."""

from __future__ import annotations

from collections.abc import Sequence

from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.owing_passes import rank_passes
from gradprobe.analysis.findings.syntax import parse_file
from gradprobe.analysis.flow_graph import FlowGraph
from gradprobe.history.leaf_uses import LeafUse
from gradprobe.recording.flow import FlowSite

_MAX_NAMES = 3
_MAX_CLEARING = 3

MIN_UNTAKEN = 2
"""Minimum number of backward passes that reach a leaf for gradients that no optimizer takes to count."""


def locate_way(graph: FlowGraph, uses: Sequence[LeafUse], stop: int = 0) -> list[RelatedLine]:
    """Return the lines where parameters enter, where the backward pass starts, and where the optimizer steps."""
    lines = []
    for use in uses[:_MAX_NAMES]:
        lines += [relate(graph.sites[site], "parameter used here") for site in use.sites[:1] if site != stop]
    if stop:
        onward = sorted(graph.outgoing.get(stop, {}), key=lambda n: n not in graph.leading_to_sinks)
        lines += [relate(graph.sites[n], "result used here") for n in onward[:1] if n in graph.sites]
        lines += [relate(graph.sites[n], "joins what has a graph here") for _, n in graph.find_meetings(stop)[:1]]
        lines += [relate(graph.sites[n], "new leaf made here") for n in graph.find_new_leaves(stop)[:1]]
    lines += [relate(graph.sites[sink], "backward called here") for sink in rank_passes(graph, uses)[:2]]
    lines += [relate(site, "optimizer steps here") for site in find_steps(graph, uses)[:1]]
    return lines


def find_steps(graph: FlowGraph, uses: Sequence[LeafUse]) -> list[FlowSite]:
    """Return the steps of the optimizers that have some parameters."""
    found = {number for use in uses for number in graph.outgoing.get(use.number, {}) if graph.is_step(number)}
    return [graph.sites[number] for number in sorted(found)]


def locate_construction(graph: FlowGraph, uses: Sequence[LeafUse]) -> list[RelatedLine]:
    """Return the line that constructed the optimizer of some parameters, from the source of the line that steps."""
    for step in find_steps(graph, uses)[:1]:
        for name in dict.fromkeys(use.leaf.optimizer for use in uses if use.leaf.optimizer):
            line = find_call(step.file, name, step.line)
            if line is not None:
                return [RelatedLine(step.file, line, "optimizer constructed here")]
    return []


def list_names(uses: Sequence[LeafUse]) -> str:
    """Return the names of parameters for a message, of many the first ones and how many more there are."""
    names = [use.leaf.name for use in uses if use.leaf.name]  # the shape is known of those that have a name
    nameless = len(uses) - len(names)
    if nameless:
        names.insert(_MAX_NAMES - 1, "a leaf" if nameless == 1 else f"{nameless:,} leaves")
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def begin_with_names(uses: Sequence[LeafUse]) -> str:
    """Return the names of parameters for the beginning of a sentence."""
    names = list_names(uses)
    return f"A{names[1:]}" if names.startswith("a leaf") else names


def is_within(name: str, owner: str) -> bool:
    """Return whether a parameter of this dotted name is that of an owner, or belongs to a module of that name."""
    return name == owner or name.startswith(f"{owner}.")


def relate(site: FlowSite, role: str) -> RelatedLine:
    """Return the line of a site with its role."""
    return RelatedLine(site.file, site.line, role)


def make_finding(
    rule: str,
    message: str,
    main: FlowSite,
    count: int,
    related: Sequence[RelatedLine],
    fix: str,
    evidence: str,
    level: str = "",
) -> Finding:
    """Return a finding at the site ``main``, with each other line once."""
    lines = dict[tuple[str, int], RelatedLine]()
    for line in related:
        if line.file and (line.file, line.line) != (main.file, main.line):
            lines.setdefault((line.file, line.line), line)
    function = main.function
    return Finding(rule, message, main.file, main.line, function, count, tuple(lines.values()), fix, evidence, level)


def find_call(file: str, name: str, near: int) -> int | None:
    """Return the line nearest to ``near`` that calls a function or class of this name."""
    source = parse_file(file)
    return None if source is None else source.find_call(name, near)


def locate_clearing(near: FlowSite) -> list[RelatedLine]:
    """Return the lines that clear gradients, those of the file of a site that are nearest to it."""
    source = parse_file(near.file)
    lines = sorted(source.find_clearing() if source is not None else (), key=lambda line: abs(line - near.line))
    return [RelatedLine(near.file, line, "gradients cleared here") for line in sorted(lines[:_MAX_CLEARING])]
