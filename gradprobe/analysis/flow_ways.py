"""Ways of tensors between the ends of a picture of the flow, each with what becomes of gradient on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from gradprobe.analysis.cut_reasons import MODE_CUTS
from gradprobe.analysis.flow_boxes import BACKWARD, CODE, OWN, TENSORS, BoxKind, CutPlace, Gradient, Group
from gradprobe.analysis.flow_graph import FlowGraph
from gradprobe.recording.flow import CARRIED, CUTS, PASSAGES, WITHOUT_GRAD, WRITTEN, FlowLeaf, FlowSite
from gradprobe.recording.module_roots import split_path

_MAX_MODE_LINES = 200

FindMode = Callable[[FlowSite], "tuple[str, int] | None"]
"""Returns the line that set the mode under which most operators of a site ran, if it is known."""


class FlowEnd(NamedTuple):
    """A site or leaf: the steps to it, its kind, and the number of its site."""

    group: Group
    kind: BoxKind
    number: int


@dataclass(frozen=True)
class FlowWay:
    """A way between two ends."""

    source: FlowEnd
    target: FlowEnd
    gradient: Gradient
    count: int
    cut: CutPlace | None = None


class WayFinder:
    """The ways of a flow as its picture has them."""

    def __init__(self, graph: FlowGraph, find_mode: FindMode | None) -> None:
        self._graph, self._find_mode = graph, find_mode
        self._mode_lines: dict[tuple[str, int, str], tuple[str, int] | None] = {}

    def list_ways(self) -> list[FlowWay]:
        """Return all ways."""
        return [way for way in self._make_ways() if way is not None]

    def _make_ways(self) -> Iterable[FlowWay | None]:
        for source, targets in self._graph.outgoing.items():
            for target, counts in targets.items():
                for passage, count in enumerate(counts):
                    if count:
                        yield self._make_way(source, target, passage, count)

    def _make_way(self, source: int, target: int, passage: int, count: int) -> FlowWay | None:
        """Return a way as the picture has it, None if it tells nothing: what optimizers and backward passes take."""
        graph = self._graph
        site = graph.sites.get(target)
        is_cut = passage in CUTS
        if site is None or (
            not is_cut and (graph.is_step(target) or (graph.is_sink(target) and source in graph.leaves))
        ):
            return None
        if passage == WITHOUT_GRAD and graph.is_sink(source):
            if target not in graph.leading_to_sinks or graph.is_sink(target):
                return None
            is_cut = True
        if (passage == WITHOUT_GRAD and not is_cut and source not in graph.sites) or (
            passage == WRITTEN and source not in graph.sites
        ):
            return None  # data that the program was given, and parameters that are initialized or updated
        end = self._find_end(target)
        begin = self._find_end(source, end)
        if is_cut:
            runs_with_grad = passage in MODE_CUTS and graph.outgoing[source][target][CARRIED] > 0
            is_aside = runs_with_grad or target not in graph.leading_to_sinks
            gradient = Gradient.CUT_ASIDE if is_aside else Gradient.CUT
            return FlowWay(begin, end, gradient, count, self._describe_cut(site, passage))
        gradient = {WITHOUT_GRAD: Gradient.NOT_NEEDED, WRITTEN: Gradient.WRITTEN}.get(passage, Gradient.BUILT)
        if passage == CARRIED and target in self._fed:
            gradient = Gradient.CARRIED
        return FlowWay(begin, end, gradient, count)

    def _describe_cut(self, site: FlowSite, passage: int) -> CutPlace:
        reason = PASSAGES[passage] if passage in CUTS else "autograd.grad"
        if passage not in MODE_CUTS or self._find_mode is None:
            return CutPlace(reason, site.op, site.file, site.line)
        key = (site.file, site.line, site.op)
        if key not in self._mode_lines:
            self._mode_lines[key] = self._find_mode(site) if len(self._mode_lines) < _MAX_MODE_LINES else None
        return CutPlace(reason, site.op, site.file, site.line, *(self._mode_lines[key] or ()))

    @cached_property
    def _fed(self) -> frozenset[int]:
        """The sites that gradient comes to, from a backward pass.

        A line may run for several modules, some of which lead to a loss. Gradient did not come to a site if none has
        come to a leaf that it took.
        """
        graph = self._graph
        starved = {
            number
            for use in graph.uses.values()
            if use.leaf.is_parameter and not (use.backwards or use.grads)
            for number in use.carried
        }
        waiting = [number for number in graph.sites if graph.is_sink(number)]
        found = set(waiting)
        while waiting:
            for source, counts in graph.incoming.get(waiting.pop(), {}).items():
                if counts[CARRIED] and source not in found and source not in graph.leaves and source not in starved:
                    found.add(source)
                    waiting.append(source)
        return frozenset(found)

    def _find_end(self, number: int, target: FlowEnd | None = None) -> FlowEnd:
        """Return where a site is, or a leaf: a parameter in its module, another leaf where it was made.

        A parameter that the own lines of its module take, which ``target`` is one of, is there.
        """
        leaf, site = self._graph.leaves.get(number), self._graph.sites.get(number)
        if leaf is not None:
            owner = find_owner(leaf)
            if owner[0] != TENSORS:
                is_own = target is not None and target.group[: len(owner) + 1] == (*owner, OWN)
                return target if is_own and target is not None else FlowEnd((*owner, OWN, ""), BoxKind.MODULE, number)
            number, site = leaf.made_at or number, self._graph.sites.get(leaf.made_at)
            if site is None:
                return FlowEnd(owner, BoxKind.TENSORS, number)
        if site is None:
            return FlowEnd((TENSORS, "tensors from before the recording"), BoxKind.TENSORS, 0)
        place = f"{site.file}:{site.line}"
        if self._graph.is_sink(number):
            return FlowEnd((BACKWARD, f"{site.op} {place}"), BoxKind.BACKWARD, number)
        if site.module:
            return FlowEnd((*split_path(site.module), OWN, place), BoxKind.MODULE, number)
        return FlowEnd((CODE, site.file, site.function, place), BoxKind.CODE, number)


def find_owner(leaf: FlowLeaf) -> Group:
    """Return the module of a parameter; of another leaf, what is known of it."""
    steps = split_path(leaf.name)
    if len(steps) > 1 and leaf.is_parameter:
        return tuple(steps[:-1])
    return TENSORS, f"parameters of {leaf.optimizer}" if leaf.optimizer else "tensors that require grad"
