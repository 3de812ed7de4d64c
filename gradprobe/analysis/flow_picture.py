"""Picture of the flow: modules and lines as boxes, and what becomes of gradient on the ways between them.

The picture of a large program is folded: a module stands for the modules in it, a function for its lines. Nothing of the
ledger is lost by that. A cut is on an edge of the picture or in a box, whatever is folded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache

from gradprobe.analysis.flow_boxes import OWN, BoxKind, CutPlace, FlowBox, FlowEdge, FlowView, Gradient, Group
from gradprobe.analysis.flow_depths import FlowFolding, find_parents
from gradprobe.analysis.flow_graph import FlowGraph, shorten_op
from gradprobe.analysis.flow_ways import FindMode, FlowEnd, FlowWay, WayFinder, find_owner

MAX_VIEWS = 6
_MAX_DEPTH = 12


class FlowPicture:
    """The flow of one process, to be looked at from different depths.

    Args:
        graph: The flow.
        find_mode: Returns the line that set the mode under which most operators of a site ran, if it is known.
    """

    def __init__(self, graph: FlowGraph, find_mode: FindMode | None = None) -> None:
        self._graph = graph
        self._ways = WayFinder(graph, find_mode).list_ways()
        self._left_out = Counter[CutPlace]()
        self._parents = find_parents(_list_ends(self._ways))
        self._hide_asides()
        self._ends = frozenset(_list_ends(self._ways))
        self._folding = FlowFolding(self._parents, self._ends)

    def build_views(self) -> list[FlowView]:
        """Return the views that differ, from the outermost modules to the innermost ones that have room."""
        views: list[FlowView] = []
        for depth in range(1, min(self._folding.max_depth, _MAX_DEPTH) + 1):
            view = self.build_view(depth)
            if not views or len(view.boxes) != len(views[-1].boxes):
                views.append(view)
        return [*views[: MAX_VIEWS - 1], *views[MAX_VIEWS - 1 :][-1:]]

    def build_view(self, depth: int) -> FlowView:
        """Return what is to be seen with modules down to a depth, folded further until there is room for it."""
        closed = self._folding.fold(depth)

        @cache
        def find_box(group: Group) -> Group:
            return self._folding.close(group, closed, depth)

        boxes: dict[Group, FlowBox] = {}
        for end in sorted(self._ends, key=lambda end: end.number):
            box = boxes.setdefault(find_box(end.group), FlowBox(find_box(end.group), end.kind, end.number))
            self._describe_end(box, end)
        for use in self._graph.uses.values():
            owner = boxes.get(find_box(find_owner(use.leaf)))
            if owner is not None:
                owner.parameters += 1
                owner.reached += bool(use.backwards or use.grads)
        edges, left_out = self._join(boxes, find_box)
        hidden = Counter(find_box(group) for group in {self._folding.close(end.group, {}, depth) for end in self._ends})
        folded = {group: hidden[group] for group in closed.values() if hidden[group] > 1}
        return FlowView(depth, list(boxes.values()), edges, folded, left_out)

    def _join(
        self, boxes: Mapping[Group, FlowBox], find_box: Callable[[Group], Group]
    ) -> tuple[list[FlowEdge], Counter[CutPlace]]:
        """Return the edges between the boxes, and the cuts that are not drawn; others within a box are noted there."""
        position = {group: at for at, group in enumerate(boxes)}
        edges: dict[tuple[Group, Group, Gradient], FlowEdge] = {}
        for way in self._ways:
            source, target = find_box(way.source.group), find_box(way.target.group)
            if way.gradient is Gradient.CARRIED:
                boxes[source].has_gradient = boxes[target].has_gradient = True
            if source == target:
                if way.cut is not None:
                    boxes[target].inside[way.gradient][way.cut] += way.count
                continue
            new = FlowEdge(position[source], position[target], way.gradient)
            edge = edges.setdefault((source, target, way.gradient), new)
            edge.count += way.count
            if way.cut is not None:
                edge.cuts[way.cut] += way.count
        left_out = Counter(self._left_out)
        for box in boxes.values():
            if box.has_gradient:
                left_out.update(box.inside.pop(Gradient.CUT_ASIDE, Counter()))
        for source, target, gradient in list(edges):
            if gradient is Gradient.CUT_ASIDE and (source, target, Gradient.CARRIED) in edges:
                left_out.update(edges.pop((source, target, gradient)).cuts)
        return _drop_lesser(edges.values()), left_out

    def _describe_end(self, box: FlowBox, end: FlowEnd) -> None:
        site = self._graph.sites.get(end.number)
        if site is None:
            return
        box.places[site.file, site.line] += 1
        box.ops[shorten_op(site.op)] += 1
        box.leads_to_backward |= end.number in self._graph.leading_to_sinks
        if site.module:
            box.modules.add(site.module)

    def _is_around(self, end: FlowEnd) -> bool:
        """Return whether a line is outside of modules, or in one that has others in it."""
        if OWN in end.group:
            return end.group[: end.group.index(OWN)] in self._parents
        return end.kind is BoxKind.CODE

    def _hide_asides(self) -> None:
        """Leave out the lines of code around modules that gradient does not concern, unless they are between others."""
        concerned = {
            end
            for way in self._ways
            for end in (way.source, way.target)
            if way.gradient in (Gradient.CUT, Gradient.CARRIED)
            or not self._is_around(end)
            or (way.cut is not None and OWN in end.group)
        }
        after, before = defaultdict[FlowEnd, set[FlowEnd]](set), defaultdict[FlowEnd, set[FlowEnd]](set)
        for way in self._ways:
            after[way.source].add(way.target)
            before[way.target].add(way.source)
        between = _reach(concerned, after) & _reach(concerned, before)
        for way in self._ways:
            if way.cut is not None and not {way.source, way.target} <= between:
                self._left_out[way.cut] += way.count
        self._ways = [way for way in self._ways if {way.source, way.target} <= between]


def _list_ends(ways: Iterable[FlowWay]) -> Iterator[FlowEnd]:
    for way in ways:
        yield from (way.source, way.target)


def _reach(starts: set[FlowEnd], ways: Mapping[FlowEnd, set[FlowEnd]]) -> set[FlowEnd]:
    waiting, found = list(starts), set(starts)
    while waiting:
        for end in ways.get(waiting.pop(), ()):
            if end not in found:
                found.add(end)
                waiting.append(end)
    return found


def _drop_lesser(edges: Iterable[FlowEdge]) -> list[FlowEdge]:
    """Return the edges without those beside which a more important one without cuts is: one that needs no gradient."""
    edges = list(edges)
    better = {(edge.source, edge.target) for edge in edges if edge.gradient in (Gradient.CARRIED, Gradient.CUT)}
    lesser = (Gradient.NOT_NEEDED, Gradient.WRITTEN, Gradient.BUILT)
    return [edge for edge in edges if not (edge.gradient in lesser and (edge.source, edge.target) in better)]
