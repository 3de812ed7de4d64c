"""Names for what a picture of the flow shows: its boxes, its edges and the places where gradient ends."""

from __future__ import annotations

import os
from collections.abc import Sequence

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.flow_boxes import (
    BACKWARD,
    CODE,
    FURTHER,
    OWN,
    TENSORS,
    BoxKind,
    CutPlace,
    FlowBox,
    FlowEdge,
    FlowView,
    Gradient,
)
from gradprobe.analysis.flow_graph import shorten_op
from gradprobe.report.units import escape_unprintable, format_location

_MAX_OPS = 3
REASONS = {
    "inference_mode": "inference mode",
    "data": ".data",
    "detach": "detach()",
    "not_differentiable": "no derivative",
}
"""Reasons for a cut where they are not called as in the table of the flow."""


def find_only_root(view: FlowView) -> str:
    """Return the outermost module if there is only one, which the names of those in it need not repeat, "" otherwise."""
    roots = {box.group[0] for box in view.boxes if box.kind is BoxKind.MODULE}
    return roots.pop() if len(roots) == 1 else ""


def name_box(box: FlowBox, root: str = "") -> str:
    """Return the name of a box, without a step ``root`` before others."""
    head, *rest = box.group
    if head == BACKWARD:
        return "backward()" if not rest or rest[0].startswith("backward") else "autograd.grad()"
    if head == FURTHER:
        return "further boxes"
    if head == TENSORS:
        return escape_unprintable(rest[0]) if rest else "tensors"
    if head == CODE:
        return _name_code(rest)
    if OWN not in box.group:
        return _join_steps(box.group, root)
    at = box.group.index(OWN)
    if place := "".join(box.group[at + 1 :]):
        return shorten_place(place)
    return f"{_join_steps(box.group[:at], root)}: own {'lines' if len(box.group) == at + 1 else 'parameters'}"


def _join_steps(steps: Sequence[str], root: str) -> str:
    return escape_unprintable(".".join(steps[1:] if len(steps) > 1 and steps[0] == root else steps))


def _name_code(steps: Sequence[str]) -> str:
    if len(steps) == 3:
        return shorten_place(steps[2])
    if len(steps) == 2:
        file, function = steps
        name = escape_unprintable(function)
        return os.path.basename(file) if name == "<module>" else f"{name}()"
    return escape_unprintable(os.path.basename(steps[0])) if steps else "outside of modules"


def shorten_place(place: str) -> str:
    """Return ``file:line`` without the folders."""
    return escape_unprintable(os.path.basename(place))


def describe_box(box: FlowBox, folded: int, root: str = "") -> list[str]:
    """Return what there is to say about a box, in a few words each; its parameters and the cuts in it are apart."""
    lines = []
    ops = [escape_unprintable(op) for op, _ in box.ops.most_common()]
    inside = box.modules - {".".join(box.group)}
    if box.kind is BoxKind.MODULE and inside and OWN not in box.group:
        lines.append(pluralize(len(inside), "module") + " inside")
    elif folded:
        lines.append(f"{folded:,} boxes folded")
    elif box.kind is BoxKind.BACKWARD:
        lines += [shorten_place(f"{file}:{line}") for file, line in box.places]
    elif ops:
        lines.append(", ".join(ops[:_MAX_OPS]) + (" ..." if len(ops) > _MAX_OPS else ""))
    if OWN in box.group:
        lines.insert(0, f"in {_join_steps(box.group[: box.group.index(OWN)], root)}")
    return lines


def describe_parameters(box: FlowBox) -> str:
    """Say how many parameters of a box get gradient."""
    return f"gradient at {box.reached:,} of {pluralize(box.parameters, 'parameter')}"


def locate_box(box: FlowBox) -> str:
    """Return the only line of a box, empty if it has several."""
    return format_location(*next(iter(box.places))) if len(box.places) == 1 else ""


def name_reason(cut: CutPlace) -> str:
    """Return why gradient ends at a place."""
    if cut.reason == "not_differentiable":
        return f"{escape_unprintable(shorten_op(cut.op))}: no derivative"
    return REASONS.get(cut.reason, cut.reason)


def locate_cut(cut: CutPlace) -> str:
    """Return the place where gradient ends as tables show it."""
    return format_location(cut.file, cut.line)


def locate_cause(cut: CutPlace) -> str:
    """Return the line that makes gradient end: the one that set the mode, if it is known, or that of the operator."""
    return format_location(cut.mode_file, cut.mode_line) if cut.mode_file else locate_cut(cut)


def describe_folded(view: FlowView) -> str:
    """Say what stands for several boxes; empty if nothing does."""
    parts = [
        f"{name_box(box)} ({pluralize(view.folded[box.group], 'box', 'boxes')})"
        for box in view.boxes
        if box.group in view.folded
    ]
    return f"Folded: {', '.join(parts)}." if parts else ""


def describe_edge(view: FlowView, edge: FlowEdge) -> str:
    """Return an edge as a sentence."""
    source, target = name_box(view.boxes[edge.source]), name_box(view.boxes[edge.target])
    reasons = "; ".join(f"{name_reason(cut)} at {locate_cause(cut)}" for cut in edge.cuts)
    what = f"{edge.gradient}: {reasons}" if reasons else str(edge.gradient)
    return f"{source} to {target}, {pluralize(edge.count, 'tensor')}: {what}"


LEGEND = {
    Gradient.CARRIED: "gradient carried",
    Gradient.CUT: "cut before a loss",
    Gradient.CUT_ASIDE: "cut aside: no backward follows",
    Gradient.BUILT: "graph not used by a backward",
    Gradient.NOT_NEEDED: "gradient not needed",
    Gradient.WRITTEN: "written in place",
}
"""Meanings of the edges in the legend of a picture."""
