"""Boxes and edges of a picture of the flow, and what becomes of gradient on them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

Group = tuple[str, ...]
"""Steps to a box from the outside inwards, as those of the path of a module."""

OWN = "\nown"
CODE, BACKWARD, TENSORS, FURTHER = "\ncode", "\nbackward", "\ntensors", "\nfurther"
"""Steps that are no names of modules: to the own lines of a module, and the first ones to what is outside of modules."""


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
