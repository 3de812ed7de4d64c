"""Section on the flow of gradient as a picture, with its numbers as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.findings.evidence import Evidence
from gradprobe.analysis.flow_boxes import BoxKind, CutPlace, FlowView, Gradient
from gradprobe.analysis.flow_graph import FlowGraph
from gradprobe.analysis.flow_picture import FlowPicture
from gradprobe.history.process import Process
from gradprobe.recording.flow import FlowSite
from gradprobe.report.document import Picture, Section, Table
from gradprobe.report.flow_labels import (
    describe_folded,
    find_only_root,
    locate_cause,
    name_box,
    name_reason,
)
from gradprobe.report.units import MISSING, format_count
from gradprobe.tables.recording_tables import RecordingTables

_FEW_BOXES = 16
"""Number of boxes up to which a picture is seen at once."""
_COLUMNS = ("from", "to", "gradient", "cause", "at", "count")
_MAX_LINES = 3


def build_section(tables: RecordingTables, top: int, depth: int | None = None) -> Section | None:
    """Build the section, folded unless gradient is cut before a loss; None if no backward pass began.

    The view down to ``depth`` is the one to begin with; without it, the deepest one that is seen at once.
    """
    process = max(tables.processes, key=lambda process: len(process.flow.edges), default=None)
    views = [] if process is None else _build_views(tables, process)
    if process is None or not views:
        return None
    chosen = _choose_view(views, depth)
    rows = _sum_rows(views[chosen])
    cells = [(*texts, format_count(count)) for (_, *texts), count in rows]
    table = Table(_COLUMNS, cells[:top], frozenset({"count"}), max(len(cells) - top, 0))
    sentences = [*_describe(tables, process, views[chosen])]
    has_cuts = any(gradient is Gradient.CUT for (gradient, *_), _ in rows)
    picture = Picture("flow", "Flow of gradient between modules and lines.", views, chosen)
    return Section("Flow of gradient", sentences, table, folded=not has_cuts, picture=picture)


_ORDER = list(Gradient)
_Row = tuple[Gradient, str, str, str, str, str]
"""What becomes of gradient, and the cells of a row but for its count."""


def _build_views(tables: RecordingTables, process: Process) -> list[FlowView]:
    evidence, graph = Evidence(tables), FlowGraph(process.flow)
    if not graph.sinks:
        return []  # nothing calls for gradient

    def find_mode(site: FlowSite) -> tuple[str, int] | None:
        found = evidence.locate_mode(site)
        return None if found is None else (found[0].file, found[0].line)

    views = FlowPicture(graph, find_mode).build_views()
    return [view for view in views if view.boxes]


def _choose_view(views: Sequence[FlowView], depth: int | None) -> int:
    if depth is not None:
        return max(at for at, view in enumerate(views) if at == 0 or view.depth <= depth)
    return max(at for at, view in enumerate(views) if at == 0 or len(view.boxes) <= _FEW_BOXES)


def _describe(tables: RecordingTables, process: Process, view: FlowView) -> Iterator[str]:
    cuts = list(dict.fromkeys(_iter_cuts(view)))
    more = f"; and {len(cuts) - _MAX_LINES:,} more" if len(cuts) > _MAX_LINES else ""
    named = "; ".join(cuts[:_MAX_LINES])
    yield f"Gradient is cut before a loss: {named}{more}." if cuts else "Gradient is cut nowhere before a loss."
    if folded := describe_folded(view):
        yield folded
    aside = _list_left_out(view)
    if aside:
        lines = list(dict.fromkeys(locate_cause(cut) for cut in aside))
        named = ", ".join(lines[:_MAX_LINES]) + (" and elsewhere" if len(lines) > _MAX_LINES else "")
        tensors = pluralize(sum(aside.values()), "tensor")
        yield (
            f"Not drawn: {tensors} cut where no backward pass follows, or where gradient passes at other times, at {named}."
        )
    if len(tables.processes) > 1:
        yield f"This is process {process.pid}, whose flow is the largest; the table flow has the others."


def _iter_cuts(view: FlowView) -> Iterator[str]:
    """Yield what cuts gradient before a loss, with its line and the box that it is in or follows."""
    root = find_only_root(view)
    for box in view.boxes:
        for cut in box.inside.get(Gradient.CUT, ()):
            yield f"{name_reason(cut)} at {locate_cause(cut)} in {name_box(box, root)}"
    for edge in view.edges:
        for cut in edge.cuts if edge.gradient is Gradient.CUT else ():
            yield f"{name_reason(cut)} at {locate_cause(cut)} after {name_box(view.boxes[edge.source], root)}"


def _list_left_out(view: FlowView) -> dict[CutPlace, int]:
    """Return the cuts that are not drawn, without the gradient of a loss itself, which each backward pass makes."""
    calls = {place for box in view.boxes if box.kind is BoxKind.BACKWARD for place in box.places}
    made = ("aten.ones_like",)
    return {cut: n for cut, n in view.left_out.items() if not (cut.op in made and (cut.file, cut.line) in calls)}


def _sum_rows(view: FlowView) -> list[tuple[_Row, int]]:
    """Return the rows with their counts, cuts before a loss first."""
    sums = Counter[_Row]()
    for row, count in _iter_rows(view):
        sums[row] += count
    return sorted(sums.items(), key=lambda item: _ORDER.index(item[0][0]))


def _iter_rows(view: FlowView) -> Iterator[tuple[_Row, int]]:
    root = find_only_root(view)
    names = [name_box(box, root) for box in view.boxes]
    for edge in view.edges:
        ends = names[edge.source], names[edge.target]
        if not edge.cuts:
            yield (edge.gradient, *ends, str(edge.gradient), MISSING, MISSING), edge.count
        for cut, count in edge.cuts.items():
            yield (edge.gradient, *ends, *_describe_cut(edge.gradient, cut)), count
    for name, box in zip(names, view.boxes, strict=True):
        for gradient, cuts in box.inside.items():
            for cut, count in cuts.items():
                yield (gradient, name, name, *_describe_cut(gradient, cut)), count
    for cut, count in _list_left_out(view).items():
        described = _describe_cut(Gradient.CUT_ASIDE, cut)
        yield (Gradient.CUT_ASIDE, "(not drawn)", "(not drawn)", *described), count


def _describe_cut(gradient: Gradient, cut: CutPlace) -> tuple[str, str, str]:
    return str(gradient), name_reason(cut), locate_cause(cut)
