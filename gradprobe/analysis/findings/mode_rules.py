"""Who switched gradients off or on, and is it still in force."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradprobe.analysis.findings.evidence import Evidence, locate_site, rank_lines
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.syntax import find_grad_decorator, parse_file
from gradprobe.history.process import Process
from gradprobe.history.records import Region
from gradprobe.recording.events import BACKWARD_PASS

_LINES = 4


def find_leaked_modes(evidence: Evidence) -> Iterator[Finding]:
    """GP101: a plain call that its function never undid, where it cost the first gradient."""
    callers = {(seen.main.file, seen.main.line): seen.related for seen in evidence.of("called")}
    for seen in evidence.of("GP101"):
        main = seen.main
        related = (*seen.related, *callers.get((main.file, main.line), ()))
        message = (
            f"{main.function} switches gradients off by a plain call and returns without switching them on again: the "
            "thread's later code records nothing."
        )
        yield Finding("GP101", message, main.file, main.line, main.function, seen.count, related)


def find_reentered_managers(evidence: Evidence) -> Iterator[Finding]:
    """GP102: the inner block, and since when its manager was open."""
    for process, outer in evidence.regions():
        for inner in outer.reentrant_regions:
            at, since = (
                locate_site(process, inner.site, ""),
                locate_site(process, outer.site, "already open since here"),
            )
            if at is None or since is None or outer.before == outer.inside:
                continue
            related = [since, *_made(since)]
            message = f"this {inner.manager} object is entered while it is open: the thread ends up in the wrong mode."
            yield Finding("GP102", message, at.file, at.line, process.place(inner.site)[2], 1, tuple(related))


def _made(block: RelatedLine) -> Iterator[RelatedLine]:
    """Where the manager that a ``with`` statement names was made."""
    source = parse_file(block.file)
    statement = None if source is None else source.block_at(block.line)
    for item in statement.items if statement is not None else ():
        if source is not None and isinstance(item.context_expr, ast.Name | ast.Attribute):
            line = source.made_at(ast.unparse(item.context_expr), block.line)
            if line is not None:
                yield RelatedLine(block.file, line, "made here")


def find_enable_grad_in_inference_mode(evidence: Evidence) -> Iterator[Finding]:
    """GP103: a block that switches gradients on where inference mode is on."""
    for process, region in evidence.regions():
        if region.manager not in ("enable_grad", "set_grad_enabled") or region.inside != (True, True):
            continue
        at, ran = locate_site(process, region.site, ""), evidence.ops_in(process, region)
        if at is None or (process.counts_operators and ran.empty):
            continue
        around = _inference_around(process, region)
        related = [] if around is None else [around]
        related += rank_lines(ran, "records nothing", _LINES)
        message = f"{region.manager} has no effect here: inference mode is on, and nothing is recorded."
        yield Finding("GP103", message, at.file, at.line, process.place(region.site)[2], 1, tuple(related))


def _inference_around(process: Process, region: Region) -> RelatedLine | None:
    outer = region.parent
    while outer is not None and outer.manager != "inference_mode":
        outer = outer.parent
    return None if outer is None else locate_site(process, outer.site, "inference mode entered here")


def find_cut_graphs(evidence: Evidence) -> Iterator[Finding]:
    """GP105: the call, the decorator, the line that lost the graph and the one that trains on the result."""
    for seen in evidence.of("GP105"):
        message = (
            "this call goes through a decorator that switches gradients off: what it is given requires grad, its result "
            "does not, and is trained on."
        )
        yield Finding("GP105", message, seen.main.file, seen.main.line, seen.main.function, seen.count, seen.related)


def find_undecorated_overrides_that_ran(evidence: Evidence) -> Iterator[Finding]:
    """GP106: a method that builds graphs where the one that it overrides is decorated."""
    ops = evidence.tables.ops
    if ops.empty or any(map(_has_backward, evidence.processes)):
        return
    building = ops[(ops["nodes"] > 0) & (ops["phase"] == "forward")]
    for (file, line), rows in building.groupby(["file", "line"], sort=False):
        source = parse_file(file)
        if source is None:
            continue
        classes = source.classes()
        for child in classes.values():
            method = next((f for f in child.body if isinstance(f, ast.FunctionDef) and _holds(f, int(line))), None)
            if method is None or find_grad_decorator(method) is not None:
                continue
            for base in child.bases:
                overridden = _method(classes.get(ast.unparse(base)), method.name)
                decorator = None if overridden is None else find_grad_decorator(overridden)
                if overridden is None or decorator is None:
                    continue
                related = (
                    RelatedLine(file, overridden.lineno, "overrides this"),
                    RelatedLine(file, decorator.lineno, "which is decorated here"),
                )
                message = (
                    f"{child.name}.{method.name} builds a graph on each call and no backward follows; the method that it "
                    "overrides is decorated, and decorators are not inherited."
                )
                yield Finding("GP106", message, file, int(line), method.name, int(rows["count"].sum()), related)


def _has_backward(process: Process) -> bool:
    return any(mark.op == BACKWARD_PASS for mark in process.history.marks)


def _holds(function: ast.FunctionDef, line: int) -> bool:
    return function.lineno <= line <= (function.end_lineno or line)


def _method(owner: ast.ClassDef | None, name: str) -> ast.FunctionDef | None:
    body = [] if owner is None else owner.body
    return next((f for f in body if isinstance(f, ast.FunctionDef) and f.name == name), None)
