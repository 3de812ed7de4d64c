"""Records of the flow of tensors through the program, and of the graphs that it constructed.

A site is an operator at a line. A leaf is a parameter, or another tensor that requires grad and that no operator
computed. An edge leads from the site or leaf that made a tensor to the site that took it, and counts what became of
gradient there. A backward pass and an optimizer's step are sites too: the edges from a leaf to them count the passes
that reached it, and the steps that found a gradient or none.

All are kept as notes: a line of JSON that identifies the record, and a count that adds up. Their number is bounded by
the size of the program.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gradprobe.recording.notes import Note, NoteKind

PASSAGES = (
    "carried",
    "without_grad",
    "no_grad",
    "inference_mode",
    "detach",
    "data",
    "not_differentiable",
    "written",
)
"""Outcomes for gradient along an edge; the observer's library uses the same order.

``carried``: the tensor requires grad, and a node was constructed. ``without_grad``: the tensor does not require grad.
The others name what cut the graph: the mode, ``detach()``, ``.data``, or an operator without a derivative. ``written``:
the operator wrote the tensor in place without a node.

Of a leaf and a backward pass, ``carried`` counts the passes that reached the leaf, ``without_grad`` those that began at
the leaf itself, and ``written`` those whose gradient was cleared before an optimizer stepped with it. Of a leaf and an
optimizer's step, the first two count the steps that found a gradient, and those that found none; ``written`` counts those
that found a gradient which contains one that a step had taken before, and ``not_differentiable`` those that found one of
zeros only.

What stands for a gradient is the backward pass that gave it, then the line that wrote it, then the step that has taken
it. Of such a site and a backward pass, ``written`` counts the passes that added to the gradient; of such a site and a
step, ``without_grad`` counts the steps that took it, and ``written`` those that found a part in it of a backward pass
whose other gradients an earlier step had taken.
"""
CARRIED, WITHOUT_GRAD, CUT_BY_NO_GRAD, CUT_BY_INFERENCE, CUT_BY_DETACH, CUT_BY_DATA, NOT_DIFFERENTIABLE, WRITTEN = (
    range(8)
)
UNKNOWN_SITE = 0
"""Number of the source of what no recorded operator has made, such as a tensor over an array or a Python number."""
CUTS = (CUT_BY_NO_GRAD, CUT_BY_INFERENCE, CUT_BY_DETACH, CUT_BY_DATA, NOT_DIFFERENTIABLE)

BACKWARD_SITE, GRAD_SITE, STEP_SITE = "backward", "autograd.grad", "optimizer.step"
"""Operators of the sites that stand for ``backward()``, ``torch.autograd.grad`` and an optimizer's step."""
UNKNOWN_PARAMETER = "parameter "
"""Beginning of the names of parameters that an optimizer has and no known module: ``parameter 2 of Adam``."""


class FlowSite(NamedTuple):
    """An operator at a line of the program."""

    file: str
    line: int
    function: str
    op: str
    module: str


class FlowLeaf(NamedTuple):
    """A tensor that requires grad and that no operator computed.

    ``made_at`` is the number of the site that created it, 0 if it is older than the recording. ``name`` is the dotted
    name of a parameter, "" if none is known; ``optimizer`` the class of the optimizer that has it.
    """

    made_at: int
    name: str = ""
    shape: tuple[int, ...] = ()
    optimizer: str = ""
    is_parameter: bool = False


REQUIRES_GRAD = "requires_grad"
MISSPELT_FLAGS = (
    "require_grad",
    "required_grad",
    "requires_grads",
    "require_grads",
    "requires_gradient",
    "requires_gradients",
)
"""Names that are written instead of ``requires_grad``."""


class Frame(NamedTuple):
    """A line of the program that was running."""

    file: str
    line: int
    function: str


@dataclass
class PathCounts:
    """Sums over the operators on one path of calls, and the nodes that they constructed.

    Nodes constructed, those that a backward reached, those not judged because an exception ended their iteration;
    operators; bytes that they saved for backward, without leaves.
    """

    built: int = 0
    reached: int = 0
    forgotten: int = 0
    calls: int = 0
    saved_bytes: int = 0

    @property
    def unused(self) -> int:
        """Nodes that no backward has reached."""
        return self.built - self.reached - self.forgotten


_PATH_FIELDS = ("built", "reached", "forgotten", "calls", "saved_bytes")


@dataclass
class FlowLedger:
    """The flow of one process: sites and leaves by number, edges by their ends, paths by their frames from the inside out.

    An edge from 0 is one of tensors that nothing is known of, such as those made from NumPy arrays.
    """

    sites: dict[int, FlowSite] = field(default_factory=dict)
    leaves: dict[int, FlowLeaf] = field(default_factory=dict)
    edges: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    paths: dict[tuple[Frame, ...], PathCounts] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)
    """Attributes that are False and were meant to be ``requires_grad``, by dotted name of the module or parameter."""

    def name_of(self, number: int) -> str:
        """Return a short name of a site or leaf for messages."""
        leaf = self.leaves.get(number)
        if leaf is not None:
            return leaf.name or f"a leaf of shape {list(leaf.shape)}"
        site = self.sites.get(number)
        return "?" if site is None else site.op


def write_site(number: int, site: FlowSite) -> Note:
    """Return the note of a site."""
    return NoteKind.FLOW_SITE.value, json.dumps([number, *site]), 1


def write_leaf(number: int, leaf: FlowLeaf) -> Note:
    """Return the note of a leaf. Of several notes of one leaf the last one with a name counts."""
    return NoteKind.FLOW_LEAF.value, json.dumps([number, *leaf]), 1


def write_edge(source: int, target: int, counts: Sequence[int]) -> Iterable[Note]:
    """Yield the notes of an edge, one for each thing that became of gradient."""
    for passage, count in enumerate(counts):
        if count:
            yield NoteKind.FLOW_EDGE.value, json.dumps([source, target, PASSAGES[passage]]), count


def write_flag(owner: str, attribute: str) -> Note:
    """Return the note of an attribute that was meant to be ``requires_grad``."""
    return NoteKind.FLOW_FLAG.value, json.dumps([owner, attribute]), 1


def write_path(number: int, frames: Sequence[Frame]) -> Note:
    """Return the note of a path of calls."""
    return NoteKind.GRAPH_PATH.value, json.dumps([number, frames]), 1


def write_path_counts(number: int, counts: Sequence[int]) -> Iterable[Note]:
    """Yield the notes of what a path counted since the last time."""
    for name, count in zip(_PATH_FIELDS, counts, strict=True):
        if count:
            yield NoteKind.GRAPH_COUNT.value, json.dumps([number, name]), count


def read_flow(notes: Iterable[Note], show_module: Callable[[str], str] = str) -> FlowLedger:
    """Return the flow that a recording's notes hold. Notes that do not parse are left out.

    ``show_module`` returns the name for a reader of a recorded name that begins with the path of a module.
    """
    ledger, paths = FlowLedger(), dict[int, tuple[Frame, ...]]()
    later: list[tuple[str, list[Any], int]] = []
    for kind, text, count in notes:
        if kind not in _FLOW_KINDS:
            continue
        try:
            values = json.loads(text)
            if kind == NoteKind.FLOW_SITE:
                number, file, line, function, op, module = values
                ledger.sites[int(number)] = FlowSite(
                    str(file), int(line), str(function), str(op), show_module(str(module))
                )
            elif kind == NoteKind.FLOW_LEAF:
                number, made_at, name, shape, optimizer, is_parameter = values
                leaf = FlowLeaf(
                    int(made_at), show_module(str(name)), tuple(map(int, shape)), str(optimizer), bool(is_parameter)
                )
                ledger.leaves[int(number)] = _merge_leaves(ledger.leaves.get(int(number)), leaf)
            elif kind == NoteKind.FLOW_FLAG:
                owner, attribute = values
                ledger.flags[show_module(str(owner))] = str(attribute)
            elif kind == NoteKind.GRAPH_PATH:
                number, frames = values
                paths[int(number)] = tuple(Frame(str(file), int(line), str(name)) for file, line, name in frames)
            else:
                later.append((kind, values, count))
        except _MALFORMED:
            continue
    for kind, values, count in later:
        try:
            if kind == NoteKind.FLOW_EDGE:
                source, target, passage = values
                edge = ledger.edges.setdefault((int(source), int(target)), [0] * len(PASSAGES))
                edge[PASSAGES.index(passage)] += count
            else:
                number, name = values
                counts = ledger.paths.setdefault(paths[int(number)], PathCounts())
                if name in _PATH_FIELDS:
                    setattr(counts, name, getattr(counts, name) + count)
        except (*_MALFORMED, KeyError):
            continue
    return ledger


_MALFORMED = (ValueError, TypeError, OverflowError, RecursionError)
"""Errors of reading a note of an edited file: no JSON, other values, numbers without end, lists that are too deep."""


def _merge_leaves(one: FlowLeaf | None, other: FlowLeaf) -> FlowLeaf:
    if one is None:
        return other
    return FlowLeaf(
        other.made_at or one.made_at,
        other.name or one.name,
        other.shape or one.shape,
        other.optimizer or one.optimizer,
        other.is_parameter or one.is_parameter,
    )


_FLOW_KINDS = frozenset(
    kind.value
    for kind in (
        NoteKind.FLOW_SITE,
        NoteKind.FLOW_LEAF,
        NoteKind.FLOW_EDGE,
        NoteKind.FLOW_FLAG,
        NoteKind.GRAPH_PATH,
        NoteKind.GRAPH_COUNT,
    )
)
