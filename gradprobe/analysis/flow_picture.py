"""Picture of the flow: modules and lines as boxes, and what becomes of gradient on the ways between them.

The picture of a large program is folded: a module stands for the modules in it, a function for its lines. Nothing of the
ledger is lost by that. A cut is on an edge of the picture or in a box, whatever is folded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache, cached_property
from typing import NamedTuple

from gradprobe.analysis.cut_reasons import MODE_CUTS
from gradprobe.analysis.flow_graph import FlowGraph, shorten_op
from gradprobe.recording.flow import CARRIED, CUTS, PASSAGES, WITHOUT_GRAD, WRITTEN, FlowLeaf, FlowSite
from gradprobe.recording.module_roots import split_path

MAX_BOXES = 40
MAX_VIEWS = 6
_MAX_DEPTH = 12
_MAX_MODE_LINES = 200

Group = tuple[str, ...]
"""Steps to a box from the outside inwards, as those of the path of a module."""


class Gradient(str, Enum):
    """What becomes of gradient along an edge of the picture, the most important first.

    It is ``CARRIED`` from a backward pass. A graph is ``BUILT`` that no backward pass goes through. What is ``CUT`` leads
    to a loss; what is ``CUT_ASIDE`` does not, or ran so beside other times at which gradient was carried.
    """

    CUT = "cut"
    CARRIED = "carried"
    BUILT = "not used"
    CUT_ASIDE = "cut aside"
    WRITTEN = "written"
    NOT_NEEDED = "not needed"

    __str__ = str.__str__


class CutPlace(NamedTuple):
    """A reason why gradient ends, the operator that ends it, and its line; of a mode also the line that set it."""

    reason: str
    op: str
    file: str
    line: int
    mode_file: str = ""
    mode_line: int = 0


class BoxKind(str, Enum):
    """Kinds of boxes."""

    MODULE = "module"
    CODE = "code"
    BACKWARD = "backward"
    TENSORS = "tensors"

    __str__ = str.__str__


@dataclass
class FlowBox:
    """A box of the picture.

    ``steps`` lead to it, ``first`` is the number of the first site in it. ``inside`` has the cuts between sites of the box.
    """

    group: Group
    kind: BoxKind
    first: int
    places: Counter[tuple[str, int]] = field(default_factory=Counter)
    ops: Counter[str] = field(default_factory=Counter)
    modules: set[str] = field(default_factory=set)
    parameters: int = 0
    reached: int = 0
    has_gradient: bool = False
    """True if gradient passes through it."""
    leads_to_backward: bool = False
    inside: dict[Gradient, Counter[CutPlace]] = field(default_factory=lambda: defaultdict(Counter))


@dataclass
class FlowEdge:
    """An edge of the picture from one box to another one, by their positions; ``cuts`` are where gradient ends."""

    source: int
    target: int
    gradient: Gradient
    count: int = 0
    cuts: Counter[CutPlace] = field(default_factory=Counter)


@dataclass
class FlowView:
    """Boxes and edges down to a depth of modules.

    ``folded`` has the boxes that stand for several ones of this depth, and their number. ``left_out`` has cuts that
    are not drawn: no backward pass starts from what is computed there, or gradient goes the same way at other times.
    """

    depth: int
    boxes: Sequence[FlowBox]
    edges: Sequence[FlowEdge]
    folded: Mapping[Group, int]
    left_out: Counter[CutPlace]

    @property
    def cuts(self) -> int:
        """Number of times that a cut was met, on edges, in boxes and at lines that are not drawn."""
        inside = sum(places.total() for box in self.boxes for places in box.inside.values())
        return inside + self.left_out.total() + sum(edge.cuts.total() for edge in self.edges)


class _End(NamedTuple):
    """A site or leaf: the steps to it, its kind, and the number of its site."""

    group: Group
    kind: BoxKind
    number: int


@dataclass(frozen=True)
class _Way:
    source: _End
    target: _End
    gradient: Gradient
    count: int
    cut: CutPlace | None = None


OWN = "\nown"
CODE, BACKWARD, TENSORS, FURTHER = "\ncode", "\nbackward", "\ntensors", "\nfurther"
"""Steps that are no names of modules: to the own lines of a module, and the first ones to what is outside of modules."""
_Closed = dict[Group, Group]
"""Boxes by the groups that stand for what is in them."""


class FlowPicture:
    """The flow of one process, to be looked at from different depths.

    Args:
        graph: The flow.
        find_mode: Returns the line that set the mode under which most operators of a site ran, if it is known.
    """

    def __init__(self, graph: FlowGraph, find_mode: Callable[[FlowSite], tuple[str, int] | None] | None = None) -> None:
        self._graph, self._find_mode = graph, find_mode
        self._mode_lines: dict[tuple[str, int, str], tuple[str, int] | None] = {}
        self._ways = [way for way in self._list_ways() if way is not None]
        self._left_out = Counter[CutPlace]()
        self._parents = _find_parents(end for way in self._ways for end in (way.source, way.target))
        self._hide_asides()

    def build_views(self) -> list[FlowView]:
        """Return the views that differ, from the outermost modules to the innermost ones that have room."""
        views: list[FlowView] = []
        for depth in range(1, min(self._max_depth, _MAX_DEPTH) + 1):
            view = self.build_view(depth)
            if not views or len(view.boxes) != len(views[-1].boxes):
                views.append(view)
        return [*views[: MAX_VIEWS - 1], *views[MAX_VIEWS - 1 :][-1:]]

    def build_view(self, depth: int) -> FlowView:
        """Return what is to be seen with modules down to a depth, folded further until there is room for it."""
        closed = self._fold(depth)

        @cache
        def find_box(group: Group) -> Group:
            return self._close(group, closed, depth)

        boxes: dict[Group, FlowBox] = {}
        for end in sorted(self._ends, key=lambda end: end.number):
            box = boxes.setdefault(find_box(end.group), FlowBox(find_box(end.group), end.kind, end.number))
            self._describe_end(box, end)
        for use in self._graph.uses.values():
            owner = boxes.get(find_box(_find_owner(use.leaf)))
            if owner is not None:
                owner.parameters += 1
                owner.reached += bool(use.backwards or use.grads)
        edges, left_out = self._join(boxes, find_box)
        hidden = Counter(find_box(group) for group in {self._close(end.group, {}, depth) for end in self._ends})
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

    def _describe_end(self, box: FlowBox, end: _End) -> None:
        site = self._graph.sites.get(end.number)
        if site is None:
            return
        box.places[site.file, site.line] += 1
        box.ops[shorten_op(site.op)] += 1
        box.leads_to_backward |= end.number in self._graph.leading_to_sinks
        if site.module:
            box.modules.add(site.module)

    @cached_property
    def _ends(self) -> set[_End]:
        return {end for way in self._ways for end in (way.source, way.target)}

    @property
    def _max_depth(self) -> int:
        return max((len(group) for group in self._parents), default=0) + 1

    def _close(self, group: Group, closed: _Closed, depth: int) -> Group:
        """Return the box of a group: the outermost closed one around it, a module of this depth, or one without modules."""
        for length in range(1, len(group) + 1):
            head = group[:length]
            if head in closed:
                return closed[head]
            is_module = "\n" not in head[0] and head[-1] != OWN
            if is_module and (length == depth or head not in self._parents):
                return head
        return group

    def _fold(self, depth: int) -> _Closed:
        """Return the groups to close so that there are few boxes.

        They are the lines of modules and functions, then the innermost modules, then files, then the smallest boxes.
        """
        closed: _Closed = {}
        groups = {end.group for end in self._ends}
        while True:
            boxes = {self._close(group, closed, depth) for group in groups}
            if len(boxes) <= MAX_BOXES:
                return closed
            sizes = Counter(group[:length] for group in boxes for length in range(1, len(group)))
            first = max(((_rank(group), len(group)) for group, size in sizes.items() if size > 1), default=None)
            if first is None:
                break
            left = len(boxes)
            # Groups of one length are apart from each other: closing one leaves the sizes of the others.
            for group, size in sizes.most_common():
                if size > 1 and left > MAX_BOXES and (_rank(group), len(group)) == first:
                    closed[group] = group
                    left -= size - 1
        sites = Counter(self._close(end.group, closed, depth) for end in self._ends)
        for group, _ in sites.most_common()[MAX_BOXES - 1 :]:
            closed[group] = (FURTHER,)
        return closed

    def _list_ways(self) -> Iterable[_Way | None]:
        for source, targets in self._graph.outgoing.items():
            for target, counts in targets.items():
                for passage, count in enumerate(counts):
                    if count:
                        yield self._make_way(source, target, passage, count)

    def _make_way(self, source: int, target: int, passage: int, count: int) -> _Way | None:
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
            return _Way(begin, end, gradient, count, self._describe_cut(site, passage))
        gradient = {WITHOUT_GRAD: Gradient.NOT_NEEDED, WRITTEN: Gradient.WRITTEN}.get(passage, Gradient.BUILT)
        if passage == CARRIED and target in self._fed:
            gradient = Gradient.CARRIED
        return _Way(begin, end, gradient, count)

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

    def _find_end(self, number: int, target: _End | None = None) -> _End:
        """Return where a site is, or a leaf: a parameter in its module, another leaf where it was made.

        A parameter that the own lines of its module take, which ``target`` is one of, is there.
        """
        leaf, site = self._graph.leaves.get(number), self._graph.sites.get(number)
        if leaf is not None:
            owner = _find_owner(leaf)
            if owner[0] != TENSORS:
                is_own = target is not None and target.group[: len(owner) + 1] == (*owner, OWN)
                return target if is_own and target is not None else _End((*owner, OWN, ""), BoxKind.MODULE, number)
            number, site = leaf.made_at or number, self._graph.sites.get(leaf.made_at)
            if site is None:
                return _End(owner, BoxKind.TENSORS, number)
        if site is None:
            return _End((TENSORS, "tensors from before the recording"), BoxKind.TENSORS, 0)
        place = f"{site.file}:{site.line}"
        if self._graph.is_sink(number):
            return _End((BACKWARD, f"{site.op} {place}"), BoxKind.BACKWARD, number)
        if site.module:
            return _End((*split_path(site.module), OWN, place), BoxKind.MODULE, number)
        return _End((CODE, site.file, site.function, place), BoxKind.CODE, number)

    def _is_around(self, end: _End) -> bool:
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
        after, before = defaultdict[_End, set[_End]](set), defaultdict[_End, set[_End]](set)
        for way in self._ways:
            after[way.source].add(way.target)
            before[way.target].add(way.source)
        between = _reach(concerned, after) & _reach(concerned, before)
        for way in self._ways:
            if way.cut is not None and not {way.source, way.target} <= between:
                self._left_out[way.cut] += way.count
        self._ways = [way for way in self._ways if {way.source, way.target} <= between]


def _find_parents(ends: Iterable[_End]) -> frozenset[Group]:
    """Return the modules that have others in them."""
    paths = {end.group for end in ends if end.kind is BoxKind.MODULE}
    modules = {path[: path.index(OWN)] if OWN in path else path for path in paths}
    return frozenset(path[:length] for path in modules for length in range(1, len(path)))


def _find_owner(leaf: FlowLeaf) -> Group:
    """Return the module of a parameter; of another leaf, what is known of it."""
    steps = split_path(leaf.name)
    if len(steps) > 1 and leaf.is_parameter:
        return tuple(steps[:-1])
    return TENSORS, f"parameters of {leaf.optimizer}" if leaf.optimizer else "tensors that require grad"


def _reach(starts: set[_End], ways: Mapping[_End, set[_End]]) -> set[_End]:
    waiting, found = list(starts), set(starts)
    while waiting:
        for end in ways.get(waiting.pop(), ()):
            if end not in found:
                found.add(end)
                waiting.append(end)
    return found


def _rank(group: Group) -> int:
    """Return how early a group is closed."""
    if group[-1] == OWN or (group[0] == CODE and len(group) == 3):
        return 2
    return 1 if "\n" not in group[0] else 0


def _drop_lesser(edges: Iterable[FlowEdge]) -> list[FlowEdge]:
    """Return the edges without those beside which a more important one without cuts is: one that needs no gradient."""
    edges = list(edges)
    better = {(edge.source, edge.target) for edge in edges if edge.gradient in (Gradient.CARRIED, Gradient.CUT)}
    lesser = (Gradient.NOT_NEEDED, Gradient.WRITTEN, Gradient.BUILT)
    return [edge for edge in edges if not (edge.gradient in lesser and (edge.source, edge.target) in better)]
