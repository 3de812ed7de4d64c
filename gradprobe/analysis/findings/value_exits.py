"""Parameters of an optimizer whose values leave autograd: a module reads them as Python numbers or as an array."""

from __future__ import annotations

from collections.abc import Sequence

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.cut_reasons import CutReason
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.flow_lines import begin_with_names, find_call, locate_way, make_finding
from gradprobe.analysis.flow_graph import Cut, FlowGraph, shorten_op
from gradprobe.history.leaf_uses import LeafUse
from gradprobe.recording.flow import CUT_BY_DATA, CUT_BY_DETACH

_NUMBERS = frozenset(("item", "_local_scalar_dense", "tolist"))
_ARRAYS = ("numpy", "tolist")
_NUMBER = CutReason("reads its value as a Python number", "Compute with the tensor itself instead of its number.")
_ARRAY = CutReason("reads its values as an array", "Compute with operators of PyTorch on the tensor itself.")


def find_exit(graph: FlowGraph, use: LeafUse) -> Cut | None:
    """Return where the forward pass of a module reads the values of a parameter, or what is computed from it.

    What the program reads elsewhere it may only print.
    """
    cuts = graph.cuts_after([use.number, *graph.follow(use.carried)])
    by_line: dict[tuple[str, int], list[Cut]] = {}
    for cut in cuts:
        site = graph.sites[cut.site]
        if site.module and _find_reason(graph, cut) is not None:
            by_line.setdefault((site.file, site.line), []).append(cut)
    # A module may have another path in its first call: then a line has several sites.
    read = max(by_line.values(), key=lambda cuts: sum(cut.count for cut in cuts), default=[])
    return read[0] if sum(cut.count for cut in read) >= use.steps else None


def _find_reason(graph: FlowGraph, cut: Cut) -> CutReason | None:
    site = graph.sites[cut.site]
    if shorten_op(site.op) in _NUMBERS:
        return _NUMBER
    is_array = cut.passage in (CUT_BY_DETACH, CUT_BY_DATA) and any(
        find_call(site.file, name, site.line) == site.line for name in _ARRAYS
    )
    return _ARRAY if is_array else None


def describe_exit(graph: FlowGraph, cut: Cut, uses: Sequence[LeafUse]) -> Finding:
    """Return GP511 for parameters whose values are read at a site."""
    site, steps = graph.sites[cut.site], max(use.steps for use in uses)
    how, fix = _find_reason(graph, cut) or _NUMBER
    message = (
        f"{begin_with_names(uses)} took part in the forward pass but got no gradient in {graph.count_steps(steps)}: this "
        f"line {how}, through which no gradient comes back."
    )
    found = f"0 of {pluralize(steps, 'step')} found a gradient"
    return make_finding("GP511", message, site, len(uses), locate_way(graph, uses, cut.site), fix, found)
