"""Depths of a picture of the flow: the groups that are closed around what is in them, so that there are few boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from gradprobe.analysis.flow_boxes import CODE, FURTHER, OWN, BoxKind, Group
from gradprobe.analysis.flow_ways import FlowEnd

MAX_BOXES = 40

Closed = dict[Group, Group]
"""Boxes by the groups that stand for what is in them."""


class FlowFolding:
    """The groups of the ends of all ways, and how they are folded.

    Args:
        parents: The modules that have others in them.
        ends: The ends of the ways that are drawn.
    """

    def __init__(self, parents: frozenset[Group], ends: Iterable[FlowEnd]) -> None:
        self._parents = parents
        self._ends = frozenset(ends)

    @property
    def max_depth(self) -> int:
        """Depth of modules from which on no view differs."""
        return max((len(group) for group in self._parents), default=0) + 1

    def close(self, group: Group, closed: Closed, depth: int) -> Group:
        """Return the box of a group: the outermost closed one around it, a module of this depth, or one without modules."""
        for length in range(1, len(group) + 1):
            head = group[:length]
            if head in closed:
                return closed[head]
            is_module = "\n" not in head[0] and head[-1] != OWN
            if is_module and (length == depth or head not in self._parents):
                return head
        return group

    def fold(self, depth: int) -> Closed:
        """Return the groups to close so that there are few boxes.

        They are the lines of modules and functions, then the innermost modules, then files, then the smallest boxes.
        """
        closed: Closed = {}
        groups = {end.group for end in self._ends}
        while True:
            boxes = {self.close(group, closed, depth) for group in groups}
            if len(boxes) <= MAX_BOXES:
                return closed
            # Sorted: sets of texts differ in order between processes, and the first of equal groups is closed first.
            sizes = Counter(group[:length] for group in sorted(boxes) for length in range(1, len(group)))
            first = max(((_rank(group), len(group)) for group, size in sizes.items() if size > 1), default=None)
            if first is None:
                break
            left = len(boxes)
            # Groups of one length are apart from each other: closing one leaves the sizes of the others.
            for group, size in sizes.most_common():
                if size > 1 and left > MAX_BOXES and (_rank(group), len(group)) == first:
                    closed[group] = group
                    left -= size - 1
        sites = Counter(self.close(end.group, closed, depth) for end in sorted(self._ends))
        for group, _ in sites.most_common()[MAX_BOXES - 1 :]:
            closed[group] = (FURTHER,)
        return closed


def find_parents(ends: Iterable[FlowEnd]) -> frozenset[Group]:
    """Return the modules that have others in them."""
    paths = {end.group for end in ends if end.kind is BoxKind.MODULE}
    modules = {path[: path.index(OWN)] if OWN in path else path for path in paths}
    return frozenset(path[:length] for path in modules for length in range(1, len(path)))


def _rank(group: Group) -> int:
    """Return how early a group is closed."""
    if group[-1] == OWN or (group[0] == CODE and len(group) == 3):
        return 2
    return 1 if "\n" not in group[0] else 0
