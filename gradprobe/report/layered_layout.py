"""Places of boxes in layers from top to bottom, with edges as lines between them.

The method of Sugiyama, Tagawa and Toda (1981): edges against the order of the boxes are turned around, each box is put
below those that lead to it, boxes of a layer are sorted so that few edges cross, and moved as near to their neighbours as
there is room.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

GAP, LAYER_GAP = 22.0, 34.0
_THIN, _LINE_GAP = 2.0, 14.0
_STRAIGHT = 8.0
"""Weight of the line of an edge that goes on as a line."""
_NEARLY_STRAIGHT = 14.0
_SWEEPS = 16
_IN_A_ROW = 4
_MAX_PORT_GAP = 16.0

Point = tuple[float, float]


@dataclass(frozen=True)
class Node:
    """A box to be placed. ``order`` is where it is in the program: edges lead to a higher one, unless they go back."""

    width: float
    height: float
    order: float


@dataclass(frozen=True)
class Layout:
    """The top left corners of the boxes, the points on each edge from its source to its target, and the size of it all."""

    corners: Sequence[Point]
    routes: Sequence[Sequence[Point]]
    width: float
    height: float


@dataclass
class _Place:
    """A box, or the place where an edge goes through a layer."""

    width: float
    height: float
    layer: int
    x: float = 0
    above: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)
    is_line: bool = False


def lay_out(nodes: Sequence[Node], edges: Sequence[tuple[int, int]]) -> Layout:
    """Place boxes; ``edges`` are pairs of different boxes, by their position."""
    if not nodes:
        return Layout((), (), 0, 0)
    downwards = [(a, b) if (nodes[a].order, a) < (nodes[b].order, b) else (b, a) for a, b in edges]
    layers = _choose_layers(nodes, downwards)
    places = [_Place(node.width, node.height, layer) for node, layer in zip(nodes, layers, strict=True)]
    chains = [_add_chain(places, a, b) for a, b in downwards]
    rows: list[list[int]] = [[] for _ in range(1 + max((place.layer for place in places), default=0))]
    for at in sorted(range(len(places)), key=lambda at: nodes[at].order if at < len(nodes) else 0):
        rows[places[at].layer].append(at)
    _sort_rows(places, rows)
    _move_near(places, rows)
    _pack(places)
    tops, height = _stack(places, rows)
    corners = [(place.x, tops[place.layer]) for place in places[: len(nodes)]]
    routes = _route(places, chains, tops)
    turned = [
        points if edge == pair else points[::-1] for points, edge, pair in zip(routes, edges, downwards, strict=True)
    ]
    return Layout(corners, turned, max((place.x + place.width for place in places), default=0), height)


def _choose_layers(nodes: Sequence[Node], edges: Sequence[tuple[int, int]]) -> list[int]:
    """Put each box below those that lead to it, and one to which nothing leads right above the first that it leads to."""
    after, before = defaultdict[int, list[int]](list), defaultdict[int, list[int]](list)
    for a, b in edges:
        after[a].append(b)
        before[b].append(a)
    layers = [0] * len(nodes)
    in_order = sorted(range(len(nodes)), key=lambda at: (nodes[at].order, at))
    for at in in_order:
        layers[at] = max((layers[a] + 1 for a in before[at]), default=0)
    for at in in_order:
        if after[at] and not before[at]:
            layers[at] = min(layers[b] for b in after[at]) - 1
    lowest = max((layers[at] for at in in_order if after[at] or before[at]), default=-1)
    alone = [at for at in in_order if not after[at] and not before[at]]
    for number, at in enumerate(alone):
        layers[at] = lowest + 1 + number // _IN_A_ROW
    number_of = {layer: number for number, layer in enumerate(sorted(set(layers)))}
    return [number_of[layer] for layer in layers]


def _add_chain(places: list[_Place], a: int, b: int) -> list[int]:
    """Connect two boxes, by a place in each layer between them; return all of them from above."""
    chain = [a]
    for layer in range(places[a].layer + 1, places[b].layer):
        places.append(_Place(_THIN, 0, layer, is_line=True))
        chain.append(len(places) - 1)
    chain.append(b)
    for upper, lower in itertools.pairwise(chain):
        places[upper].below.append(lower)
        places[lower].above.append(upper)
    return chain


def _sort_rows(places: Sequence[_Place], rows: list[list[int]]) -> None:
    """Sort each layer by the mean position of neighbours, downwards and upwards; the order with fewest crossings stays."""
    best, fewest = [list(row) for row in rows], _count_crossings(places, rows)
    for sweep in range(_SWEEPS):
        goes_down = sweep % 2 == 0
        for row in rows if goes_down else rows[::-1]:
            position = {at: number / max(len(other) - 1, 1) for other in rows for number, at in enumerate(other)}
            mean = {}
            for at in row:
                near = places[at].above if goes_down else places[at].below
                mean[at] = sum(position[other] for other in near) / len(near) if near else position[at]
            row.sort(key=lambda at: mean[at])
        crossings = _count_crossings(places, rows)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    rows[:] = best


def _count_crossings(places: Sequence[_Place], rows: Sequence[Sequence[int]]) -> int:
    position = {at: number for row in rows for number, at in enumerate(row)}
    crossings = 0
    for row in rows:
        ends = sorted((position[at], position[other]) for at in row for other in places[at].below)
        crossings += sum(b > d for at, (_, b) in enumerate(ends) for _, d in ends[at + 1 :])
    return crossings


def _move_near(places: Sequence[_Place], rows: Sequence[Sequence[int]]) -> None:
    """Move the boxes of each layer, whose order stays, to the middle of their neighbours as far as there is room."""
    for row in rows:
        _settle(places, row, [0.0] * len(row))
    for sweep in range(_SWEEPS):
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            _settle(places, row, [_find_middle(places, at, goes_down=sweep % 2 == 0) for at in row])


def _find_middle(places: Sequence[_Place], at: int, *, goes_down: bool) -> float:
    """Return where a place is in the middle of its neighbours; the line of an edge is straight where it can be."""
    place = places[at]
    near = (place.above or place.below) if goes_down else (place.below or place.above)
    if not near:
        return place.x
    weights = [_STRAIGHT if place.is_line and places[other].is_line else 1 for other in near]
    middles = (
        weight * (places[other].x + places[other].width / 2) for weight, other in zip(weights, near, strict=True)
    )
    return sum(middles) / sum(weights) - place.width / 2


def _settle(places: Sequence[_Place], row: Sequence[int], wanted: Sequence[float]) -> None:
    """Place a layer so that the weighted squares of the distances to the wanted places are least, by pooling neighbours."""
    offsets, offset = [], 0.0
    for at, following in zip(row, [*row[1:], None], strict=True):
        offsets.append(offset)
        is_narrow = following is not None and (places[at].is_line or places[following].is_line)
        offset += places[at].width + (_LINE_GAP if is_narrow else GAP)
    pools: list[tuple[float, float, int]] = []
    for at, want, away in zip(row, wanted, offsets, strict=True):
        mean, weight, number = want - away, _STRAIGHT if places[at].is_line else 1.0, 1
        while pools and pools[-1][0] > mean:
            other, heavy, others = pools.pop()
            mean = (mean * weight + other * heavy) / (weight + heavy)
            weight, number = weight + heavy, number + others
        pools.append((mean, weight, number))
    starts = [mean for mean, _, number in pools for _ in range(number)]
    for at, start, away in zip(row, starts, offsets, strict=True):
        places[at].x = start + away


def _pack(places: Sequence[_Place]) -> None:
    """Move parts that no edge connects together, each to the right of those before it in the layers that it is in."""
    taken: dict[int, float] = {}
    for part in sorted(_list_parts(places), key=lambda part: min(places[at].x for at in part)):
        shift = max(taken.get(places[at].layer, 0) - places[at].x for at in part)
        for at in part:
            places[at].x += shift
        for at in part:
            place = places[at]
            taken[place.layer] = max(taken.get(place.layer, 0), place.x + place.width + GAP)


def _list_parts(places: Sequence[_Place]) -> list[list[int]]:
    """Return the places that edges connect, in lists."""
    parts, seen = [], set[int]()
    for start in range(len(places)):
        if start in seen:
            continue
        part = [start]
        seen.add(start)
        for at in part:  # which grows
            for other in places[at].above + places[at].below:
                if other not in seen:
                    seen.add(other)
                    part.append(other)
        parts.append(part)
    return parts


def _stack(places: Sequence[_Place], rows: Sequence[Sequence[int]]) -> tuple[list[float], float]:
    """Return the tops of the layers and the height of all."""
    tops, top = [], 0.0
    for row in rows:
        tops.append(top)
        top += max((places[at].height for at in row), default=0) + LAYER_GAP
    return tops, max(top - LAYER_GAP, 0)


def _route(places: Sequence[_Place], chains: Sequence[Sequence[int]], tops: Sequence[float]) -> list[list[Point]]:
    """Return the points of each edge, which leave a box and come to one side by side with its others."""
    leaving = _spread(places, [(chain[0], chain[1]) for chain in chains])
    coming = _spread(places, [(chain[-1], chain[-2]) for chain in chains])
    routes = []
    for chain, begin, end in zip(chains, leaving, coming, strict=True):
        first, last = places[chain[0]], places[chain[-1]]
        if len(chain) == 2 and abs(begin - end) < _NEARLY_STRAIGHT:
            begin = end = (begin + end) / 2
        points = [(begin, tops[first.layer] + first.height), (begin, tops[first.layer + 1] - LAYER_GAP)]
        for at in chain[1:-1]:
            points.append((places[at].x + _THIN / 2, tops[places[at].layer]))
            points.append((places[at].x + _THIN / 2, tops[places[at].layer + 1] - LAYER_GAP))
        routes.append([*points, (end, tops[last.layer])])
    return routes


def _spread(places: Sequence[_Place], ends: Sequence[tuple[int, int]]) -> list[float]:
    """Return where each edge meets its box, given the box and the next place on the edge, in the order of those places."""
    by_box = defaultdict[int, list[int]](list)
    for number, (box, _) in enumerate(ends):
        by_box[box].append(number)
    found = [0.0] * len(ends)
    for box, numbers in by_box.items():
        numbers.sort(key=lambda number: places[ends[number][1]].x + places[ends[number][1]].width / 2)
        gap = min(_MAX_PORT_GAP, places[box].width / (len(numbers) + 1))
        middle = places[box].x + places[box].width / 2
        for position, number in enumerate(numbers):
            found[number] = middle + gap * (position - (len(numbers) - 1) / 2)
    return found
