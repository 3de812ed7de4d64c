"""Results of compiled functions, of which no operator is recorded: under which mode these functions ran, and where."""

from __future__ import annotations

from collections import deque

from gradprobe.analysis.findings.evidence import Evidence
from gradprobe.analysis.findings.finding import RelatedLine
from gradprobe.analysis.flow_graph import FlowGraph
from gradprobe.recording.events import COMPILED_CALL
from gradprobe.recording.flow import UNKNOWN_SITE, WITHOUT_GRAD
from gradprobe.recording.notes import read_compilations


def is_of_unknown_origin(graph: FlowGraph, number: int) -> bool:
    """Return whether a result without a graph was computed from a tensor that no recorded operator has made."""
    waiting, found = deque([number]), {number}
    while waiting:
        current = waiting.popleft()
        edges = graph.incoming.get(current, {})
        # What an operator takes beside a tensor that is known may be a Python number.
        if UNKNOWN_SITE in edges and len(edges) == 1:
            return True
        for source, counts in edges.items():
            if counts[WITHOUT_GRAD] and source in graph.sites and source not in found:
                found.add(source)
                waiting.append(source)
    return False


def locate_compiled_calls_without_grad(evidence: Evidence) -> list[RelatedLine]:
    """Return the calls for which functions were compiled under a mode that disables grad, and what entered the mode."""
    lines: dict[tuple[str, int], RelatedLine] = {}
    for process in evidence.processes:
        regions = [
            mark.region for mark in process.history.marks if mark.op == COMPILED_CALL and mark.region is not None
        ]
        disabling = [region for region in regions if region.inside != (True, False)]
        calls = [one for one, _ in read_compilations(process.contents.notes) if one.mode != "grad" and one.called]
        for compilation in calls if disabling else ():
            at = compilation.called
            if at is not None:
                lines[at.file, at.line] = RelatedLine(at.file, at.line, "compiled function called here")
        for region in disabling[:1] if calls else ():
            located = evidence.locate_region(process.first_region + region.number)
            if located is not None:
                lines[located[0].file, located[0].line] = located[0]
    return list(lines.values())
