"""Rules about grad modes that are set, lost or without effect in one thread."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradprobe.analysis.findings.evidence import Evidence, locate_site, rank_lines
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.syntax import ParsedFile, parse_file
from gradprobe.history.process import Process
from gradprobe.history.records import Region
from gradprobe.recording.events import BACKWARD_PASS

_MAX_UNRECORDED_LINES = 4


def find_leaked_modes(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP101: a plain call that its function never undid, and where that cost the first gradient."""
    callers = {(found.main.file, found.main.line): found.related for found in evidence.select_detections("called")}
    for located in evidence.select_detections("GP101"):
        main = located.main
        message = (
            f"{main.function} calls set_grad_enabled(False) and returns without restoring it; this thread records no graph "
            "from here on."
        )
        yield located.make_finding(message, (*located.related, *callers.get((main.file, main.line), ())))


def find_reentered_managers(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP102: the inner block, and the outer block that has the same context manager object open."""
    for process, outer in evidence.iter_regions():
        for inner in outer.reentrant_regions:
            at = locate_site(process, inner.site, "")
            opened = locate_site(process, outer.site, "already open since here")
            if at is None or opened is None or outer.before == outer.inside:
                continue
            related = (opened, *_find_creation(opened))
            message = (
                f"This {inner.manager} object is entered again while it is still open, so the thread ends up in the wrong "
                "mode."
            )
            yield Finding("GP102", message, at.file, at.line, process.place(inner.site)[2], 1, related)


def _find_creation(block: RelatedLine) -> Iterator[RelatedLine]:
    """Yield the line that created the context manager which a ``with`` statement names."""
    source = parse_file(block.file)
    statement = None if source is None else source.find_block_at(block.line)
    for item in statement.items if statement is not None else ():
        if source is not None and isinstance(item.context_expr, ast.Name | ast.Attribute):
            line = source.find_assignment(ast.unparse(item.context_expr), block.line)
            if line is not None:
                yield RelatedLine(block.file, line, "made here")


def find_enable_grad_in_inference_mode(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP103: a block that enables grad inside inference mode."""
    for process, region in evidence.iter_regions():
        if region.manager not in ("enable_grad", "set_grad_enabled") or region.inside != (True, True):
            continue
        at, ops = locate_site(process, region.site, ""), evidence.select_ops(process, region)
        if at is None or (process.counts_operators and ops.empty):
            continue
        outer = _locate_inference_mode_around(process, region)
        related = [] if outer is None else [outer]
        related += rank_lines(ops, "records nothing", _MAX_UNRECORDED_LINES)
        message = f"{region.manager} has no effect here: inference mode is active, and no autograd node is recorded."
        yield Finding("GP103", message, at.file, at.line, process.place(region.site)[2], 1, tuple(related))


def _locate_inference_mode_around(process: Process, region: Region) -> RelatedLine | None:
    outer = region.parent
    while outer is not None and outer.manager != "inference_mode":
        outer = outer.parent
    return None if outer is None else locate_site(process, outer.site, "inference mode entered here")


def find_cut_graphs(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP105: the call, the decorator, the line that lost the graph and the line that trains on it."""
    if any(use.steps for graph in evidence.flow_graphs for use in graph.uses.values()):
        return  # the flow tells which parameters of an optimizer get no gradient
    for located in evidence.select_detections("GP105"):
        yield located.make_finding(
            "This call goes through a decorator that disables grad: its inputs require grad, its result does not, and the "
            "result is trained on."
        )


def find_undecorated_overrides_that_ran(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP106: methods that build graphs although the methods that they override are decorated."""
    ops = evidence.tables.ops
    if ops.empty or any(map(_ran_backward, evidence.processes)):
        return
    building = ops[(ops["nodes"] > 0) & (ops["phase"] == "forward")]
    for (file, line), rows in building.groupby(["file", "line"], sort=False):
        source = parse_file(file)
        if source is not None:
            count = int(rows["count"].sum())
            yield from _find_decorated_bases(source, int(line), count)


def _find_decorated_bases(source: ParsedFile, line: int, count: int) -> Iterator[Finding]:
    """Yield a finding for each decorated method that the undecorated method around a line overrides."""
    classes, names = source.index_classes(), source.names
    for child in classes.values():
        method = next((f for f in child.body if isinstance(f, ast.FunctionDef) and _contains(f, line)), None)
        if method is None or names.find_grad_decorator(method) is not None:
            continue
        for base in child.bases:
            overridden = _find_method(classes.get(ast.unparse(base)), method.name)
            decorator = None if overridden is None else names.find_grad_decorator(overridden)
            if overridden is None or decorator is None:
                continue
            related = (
                RelatedLine(source.file, overridden.lineno, "overrides this"),
                RelatedLine(source.file, decorator.lineno, "which is decorated here"),
            )
            message = (
                f"{child.name}.{method.name} builds a graph on each call that no backward pass uses: the method that it "
                "overrides is decorated, and decorators are not inherited."
            )
            yield Finding("GP106", message, source.file, line, method.name, count, related)


def _ran_backward(process: Process) -> bool:
    return any(mark.op == BACKWARD_PASS for mark in process.history.marks)


def _contains(function: ast.FunctionDef, line: int) -> bool:
    return function.lineno <= line <= (function.end_lineno or line)


def _find_method(owner: ast.ClassDef | None, name: str) -> ast.FunctionDef | None:
    body = [] if owner is None else owner.body
    return next((f for f in body if isinstance(f, ast.FunctionDef) and f.name == name), None)


RULES = (
    find_leaked_modes,
    find_reentered_managers,
    find_enable_grad_in_inference_mode,
    find_cut_graphs,
    find_undecorated_overrides_that_ran,
)
"""Rules of this family; a recording is checked against each."""
