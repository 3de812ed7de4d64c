"""Tree of the calls that constructed autograd nodes, and the parts of it that no backward pass has reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gradprobe.recording.flow import Frame, PathCounts


@dataclass
class CallNode:
    """A line that was running, with the lines that ran inside its call. The counts include those of the calls inside."""

    frame: Frame | None
    built: int = 0
    reached: int = 0
    unused: int = 0
    saved_bytes: float = 0.0
    calls: int = 0
    children: dict[Frame, CallNode] = field(default_factory=dict)

    def add(self, counts: PathCounts) -> None:
        """Add the counts of a path through this line."""
        self.built += counts.built
        self.reached += counts.reached
        self.unused += counts.unused
        self.saved_bytes += counts.saved_bytes * counts.unused / max(counts.built, 1)

    @property
    def own_built(self) -> int:
        """Nodes that operators of the line itself constructed, outside of the lines inside its call."""
        return self.built - sum(child.built for child in self.children.values())

    def walk(self) -> Iterator[CallNode]:
        """Yield the line and all lines inside its call."""
        yield self
        for child in self.children.values():
            yield from child.walk()

    def leaves(self) -> Iterator[CallNode]:
        """Yield the innermost lines."""
        if not self.children:
            yield self
        for child in self.children.values():
            yield from child.leaves()


@dataclass(frozen=True)
class UnusedCalls:
    """Lines of one function whose calls built nodes that no backward pass has reached.

    ``path`` are the lines that led to the function, from the outermost inwards; ``lines`` those of the function itself, the
    one with the most nodes first.
    """

    path: tuple[Frame, ...]
    lines: tuple[CallNode, ...]

    @property
    def unused(self) -> int:
        """Nodes that no backward pass has reached."""
        return sum(line.unused for line in self.lines)

    @property
    def saved_bytes(self) -> int:
        """Bytes that they saved for backward, without parameters."""
        return int(sum(line.saved_bytes for line in self.lines))

    @property
    def innermost(self) -> list[Frame]:
        """Innermost lines of the program that built the nodes, those with the most nodes first."""
        found = [leaf for line in self.lines for leaf in line.leaves()]
        return list(dict.fromkeys(leaf.frame for leaf in sorted(found, key=lambda leaf: -leaf.unused) if leaf.frame))


def build_call_tree(paths: Mapping[tuple[Frame, ...], PathCounts]) -> CallNode:
    """Return the tree of all paths, which are given from the innermost line outwards."""
    root = CallNode(None)
    for path, counts in paths.items():
        node = root
        node.add(counts)
        for frame in reversed(path):
            node = node.children.setdefault(frame, CallNode(frame))
            node.add(counts)
        node.calls += counts.calls
    return root


def find_unused_calls(root: CallNode) -> list[UnusedCalls]:
    """Return the largest parts of the tree that no backward pass has reached, those with the most nodes first."""
    found: list[UnusedCalls] = []
    _collect(root, (), found)
    return sorted(found, key=lambda calls: -calls.unused)


def _collect(node: CallNode, path: tuple[Frame, ...], found: list[UnusedCalls]) -> None:
    inside = path if node.frame is None else (*path, node.frame)
    unused = [child for child in node.children.values() if child.unused > 0 and child.reached == 0]
    for child in node.children.values():
        if child.reached > 0:
            _collect(child, inside, found)
    for child in unused:
        outside, at = inside, child
        while len(at.children) == 1 and not at.calls and at.frame is not None:
            outside = (*outside, at.frame)
            at = next(iter(at.children.values()))
        if at.children and not at.calls and at.frame is not None:
            lines = tuple(sorted(at.children.values(), key=lambda node: -node.unused))
            found.append(UnusedCalls((*outside, at.frame), lines))
        else:
            found.append(UnusedCalls(outside, (at,)))
