"""Rules about results that go on by two ways, of which one carries gradient and the other one is cut."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from gradprobe._counted_nouns import pluralize, times
from gradprobe.analysis.cut_reasons import advise_not_entering, find_reason
from gradprobe.analysis.findings.evidence import Evidence, is_library
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.flow_lines import list_names, make_finding, relate
from gradprobe.analysis.flow_graph import Cut, FlowGraph, shorten_op
from gradprobe.recording.flow import CARRIED, CUT_BY_DETACH, CUT_BY_NO_GRAD, WITHOUT_GRAD

_MIN_TIMES = 2
_SAME_VALUE = frozenset(
    ("detach", "alias", "clone", "_to_copy", "contiguous", "view", "reshape", "expand", "permute", "transpose")
)
_ADDING, _JOINING = frozenset(("add", "add_")), frozenset(("add", "add_", "cat", "stack"))


def find_cut_shortcuts(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP525: the line that cuts a shortcut, where the ways meet again, and where the result came from."""
    for graph in evidence.flow_graphs:
        applied = _find_applied(graph)
        found: dict[tuple[str, int], list[tuple[Cut, int]]] = {}
        for number, site in graph.sites.items():
            if is_library(site.file) or shorten_op(site.op) not in _SAME_VALUE:
                continue
            for cut in filter(_is_regular, graph.cuts_at(number)):
                joins = _find_joins(graph, cut, applied)
                found.setdefault((site.file, site.line), []).extend((cut, join) for join in joins[:1])
        for shortcuts in filter(None, found.values()):
            yield _describe(evidence, graph, shortcuts)


def _find_applied(graph: FlowGraph) -> frozenset[int]:
    """Return the sites that apply a parameter which is trained."""
    return frozenset(number for use in graph.uses.values() if use.steps_with_grad for number in use.carried)


def _is_regular(cut: Cut) -> bool:
    return cut.passage in (CUT_BY_DETACH, CUT_BY_NO_GRAD) and cut.count >= _MIN_TIMES


def _find_joins(graph: FlowGraph, cut: Cut, applied: frozenset[int]) -> list[int]:
    """Return the sums in which a value without gradient meets what trained layers have computed from the same value.

    With a layer on the way that carries, it is a shortcut around that layer. Without, as in `x + (y - x).detach()`, the
    gradient of the sum is that of the value itself, and nothing is lost. A loss that compares the two has no layer after
    it. A value that a program detaches to hand it on beside others, as a stage does, is not on both ways.
    """
    if cut.source not in graph.sites:
        return []
    value = _trace_value(graph, cut.source)
    around = _list_behind_layers(graph, value, applied)
    joins = list[int]()
    for number in _follow_value(graph, cut.site):
        for target, counts in graph.outgoing.get(number, {}).items():
            if (
                not counts[WITHOUT_GRAD]
                or target not in graph.sites
                or shorten_op(graph.sites[target].op) not in _JOINING
            ):
                continue
            carrying = [c[CARRIED] for n, c in graph.incoming[target].items() if c[CARRIED] and n in around]
            is_put_beside = cut.passage == CUT_BY_DETACH and shorten_op(graph.sites[target].op) not in _ADDING
            if is_put_beside and (counts[WITHOUT_GRAD] not in carrying or not _is_only_way(graph, value, target)):
                continue
            if carrying and any(n in applied for n in graph.follow([target]) if n != target):
                joins.append(target)
    return joins


def _is_only_way(graph: FlowGraph, value: int, join: int) -> bool:
    """Return whether the gradient of a value comes through the results that join it, and not from a loss of its own.

    What a stage detaches to put it beside its own result has another loss. And what a memory keeps of the step before is
    missing at the first one, so it joins less often.
    """
    waiting, found = deque([value]), {value, join}
    while waiting:
        for target, counts in graph.outgoing.get(waiting.popleft(), {}).items():
            if counts[CARRIED] and graph.is_sink(target):
                return False
            if counts[CARRIED] and target not in found:
                found.add(target)
                waiting.append(target)
    return True


def _trace_value(graph: FlowGraph, number: int) -> int:
    """Return the site that computed the value which a site passes on as it is, with gradient."""
    passed = {number}
    while shorten_op(graph.sites[number].op) in _SAME_VALUE:
        sources = [n for n, counts in graph.incoming.get(number, {}).items() if counts[CARRIED] and n in graph.sites]
        if len(sources) != 1 or sources[0] in passed:
            break
        number = sources[0]
        passed.add(number)
    return number


def _follow_value(graph: FlowGraph, start: int) -> list[int]:
    """Return a site without gradient, and those that pass its values on as they are."""
    waiting, found = deque([start]), dict.fromkeys([start])
    while waiting:
        for target, counts in graph.outgoing.get(waiting.popleft(), {}).items():
            is_same = target in graph.sites and shorten_op(graph.sites[target].op) in _SAME_VALUE
            if counts[WITHOUT_GRAD] and is_same and target not in found:
                found[target] = None
                waiting.append(target)
    return list(found)


def _list_behind_layers(graph: FlowGraph, start: int, applied: frozenset[int]) -> set[int]:
    """Return the sites that gradient reaches from a site's result through a layer that is trained."""
    first = [n for n in graph.follow([start]) if n in applied and n != start]
    return set(graph.follow(first))


def _describe(evidence: Evidence, graph: FlowGraph, shortcuts: Sequence[tuple[Cut, int]]) -> Finding:
    """Return the finding of the shortcuts that one line cuts, as that of a module does which is used several times."""
    cut, join = shortcuts[0]
    site = graph.sites[cut.site]
    how, fix = find_reason(site.op, cut.passage)
    related = [relate(graph.sites[join], "ways meet here"), relate(graph.sites[cut.source], "computed here")]
    mode = evidence.locate_mode(site) if cut.passage == CUT_BY_NO_GRAD else None
    if mode is not None:
        at, manager, _ = mode
        related.append(at)
        fix = advise_not_entering(manager, at.file, at.line)
    related += [relate(graph.sites[sink], "backward called here") for sink in graph.find_sinks([join])[:1]]
    behind = [graph.uses[n] for n in graph.find_leaves(each.source for each, _ in shortcuts)]
    partly = [use for use in behind if use.steps_with_grad]
    message = (
        f"`{shorten_op(site.op)}` at this line {how}, and the result joins what layers have computed from the same value. "
        "Gradient comes back through these layers only"
        + (f": {list_names(partly)} get a part of it." if partly else ", and not past them.")
    )
    text = f"one of two ways cut {times(cut.count)}, {pluralize(len(partly), 'parameter')} behind it"
    return make_finding("GP525", message, site, cut.count, related, fix, text)


RULES = (find_cut_shortcuts,)
"""Rules of this family; a recording is checked against each."""
