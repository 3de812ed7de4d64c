"""Rules about grad modes that are set, lost or without effect in one thread."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

import numpy as np

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.findings.evidence import (
    Evidence,
    LocatedDetection,
    is_library,
    locate_inference_mode,
    locate_site,
    rank_lines,
)
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.left_modes import LeftMode, find_left_modes
from gradprobe.analysis.findings.mode_changes import locate_skipping
from gradprobe.analysis.findings.syntax import ParsedFile, delegates, parse_file
from gradprobe.history.edge_pairs import Column
from gradprobe.history.process import Process
from gradprobe.history.records import UNFINISHED, Region, encode_modes
from gradprobe.history.region_table import RegionColumns
from gradprobe.history.row_groups import group_rows

_MAX_UNRECORDED_LINES = 4
_RESTORE = "Use a block instead of the call: `with torch.enable_grad():`."


_HOW = {
    "call": "calls set_grad_enabled(False)",
    "enter": "enters a context manager without a `with` statement",
}


def find_leaked_modes(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP101: a function that left grad disabled, and where that cost a gradient that the program wanted."""
    for left in find_left_modes(evidence):
        if left.form in _HOW and left.harm:
            what = "is imported" if left.function == "<module>" else "returns"
            message = (
                f"{left.function} {_HOW[left.form]}, and grad is still disabled after it {what}: "
                f"{_describe_victims(left)}."
            )
            skipping = locate_skipping(left.file, left.line, left.called_from)
            related = (*([left.called_from] if left.called_from else ()), *skipping, *left.victims)
            yield Finding("GP101", message, left.file, left.line, left.function, 1, related, _fix(left))
    yield from _find_enabling_calls(evidence)


def _describe_victims(left: LeftMode) -> str:
    kinds = [each.detection.facts.get("kind") for each in left.harm]
    if "backward" in kinds:
        return "a backward pass later finds no graph to go through"
    lines = len(left.victims)
    at = "the line below" if lines == 1 else f"{lines} lines below"
    return f"{at} used tensors that require grad and recorded no graph"


def _fix(left: LeftMode) -> str:
    if left.form == "enter":
        return (
            "Enter it in a `with` statement, or call `__exit__` in a `finally` block; a class that enters it in its own "
            "`__enter__` must exit it in `__exit__`."
        )
    return ""


def _find_enabling_calls(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP101: a function called within a block that disables grad, which enabled grad for the rest of the block."""
    for process, region in evidence.iter_regions(lambda columns: columns.form.find("call".__eq__)):
        outer = region.parent
        if outer is None or outer.end_ns is None or outer.internal or UNFINISHED in outer.irregular:
            continue
        # Closed with the block around it: its own function had returned by then.
        was_left = region.end_ns == outer.end_ns and process.place(region.site)[::2] != process.place(outer.site)[::2]
        if not was_left or region.inside != (True, False) or outer.inside[0] or region.before[0]:
            continue
        at, block = locate_site(process, region.site, ""), locate_site(process, outer.site, "grad disabled here")
        if at is None or block is None or is_library(block.file):
            continue
        function = process.place(region.site)[2]
        ops = evidence.select_ops(process, region)
        after = ops[(ops["nodes"] > 0) & (ops["function"] != function)] if len(ops) else ops
        if after.empty:
            continue
        nodes = int(after["nodes"].sum())
        message = (
            f"{function} calls set_grad_enabled(True) inside a {outer.manager} block and returns: the rest of the block "
            f"built {pluralize(nodes, 'autograd node')}."
        )
        built = rank_lines(after, "builds a graph", 1)
        yield Finding("GP101", message, at.file, at.line, function, 1, (block, *built), _RESTORE)


def find_enable_grad_in_inference_mode(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP103: a block that enables grad inside inference mode, and what recorded nothing in it.

    Where operators were observed, one of them must have lost a gradient: library code enables grad around what may not
    need any. Where they were not, only a block of the program's own counts.
    """
    lost = {block: each for each in evidence.select_detections("GP103") for block in each.blocks}
    seen: set[tuple[str, int]] = set()
    for process, region in _list_enabling_in_vain(evidence, lost):
        at, ops = locate_site(process, region.site, ""), evidence.select_ops(process, region)
        is_own = at is not None and not is_library(at.file) and region.manager == "enable_grad"
        if at is None or (at.file, at.line) in seen or (region not in lost if process.counts_operators else not is_own):
            continue
        seen.add((at.file, at.line))
        outer = locate_inference_mode(process, region)
        related = [] if outer is None else [outer]
        if region in lost:
            related.append(RelatedLine(lost[region].main.file, lost[region].main.line, "records nothing"))
        related += rank_lines(ops, "records nothing", _MAX_UNRECORDED_LINES)
        message = f"{region.manager} has no effect here: inference mode is active, and no autograd node is recorded."
        unique = {(line.file, line.line): line for line in reversed(related)}
        yield Finding(
            "GP103", message, at.file, at.line, process.place(region.site)[2], 1, tuple(reversed(unique.values()))
        )


def _list_enabling_in_vain(
    evidence: Evidence, lost: Mapping[Region, LocatedDetection]
) -> Iterator[tuple[Process, Region]]:
    """Yield the blocks that enable grad inside inference mode: one per line, or those that are ``lost``."""
    for process in evidence.processes:
        regions = process.history.regions
        columns = regions.columns
        is_enabling = columns.manager.find(("enable_grad", "set_grad_enabled").__contains__) & ~columns.internal
        numbers = np.flatnonzero(is_enabling & (columns.inside == encode_modes((True, True))))
        if process.counts_operators:
            known = [region.number for region, each in lost.items() if each.process is process]
            numbers = np.intersect1d(numbers, np.array(known, np.int64))
        else:
            numbers = numbers[[rows[0] for rows in group_rows(columns.site[numbers], columns.manager.numbers[numbers])]]
        for region in regions.at(numbers):
            yield process, region


def find_undecorated_overrides_that_ran(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP106: methods that build graphs although the methods that they override are decorated."""
    ops = evidence.tables.ops
    if ops.empty:
        return
    building = ops[(ops["nodes"] > 0) & (ops["phase"] == "forward")]
    trained = {
        (frame.file, frame.line)
        for flow in evidence.flows
        for path, n in flow.paths.items()
        if n.reached
        for frame in path
    }
    sources = {file: source for file in building["file"].unique() if (source := parse_file(file)) is not None}
    for (file, line), rows in building[building["file"].isin(list(sources))].groupby(["file", "line"], sort=False):
        if (file, int(line)) not in trained:
            yield from _find_decorated_bases(sources[file], int(line), int(rows["count"].sum()))


def _find_decorated_bases(source: ParsedFile, line: int, count: int) -> Iterator[Finding]:
    """Yield a finding for each decorated method that the undecorated method around a line overrides."""
    classes, names = source.index_classes(), source.names
    for child in classes.values():
        method = next((f for f in child.body if isinstance(f, ast.FunctionDef) and _contains(f, line)), None)
        if method is None or names.find_grad_decorator(method) is not None or delegates(method, names):
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


def _contains(function: ast.FunctionDef, line: int) -> bool:
    return function.lineno <= line <= (function.end_lineno or line)


def _find_method(owner: ast.ClassDef | None, name: str) -> ast.FunctionDef | None:
    body = [] if owner is None else owner.body
    return next((f for f in body if isinstance(f, ast.FunctionDef) and f.name == name), None)


def _leaves_inference_mode(columns: RegionColumns) -> Column:
    is_enabling = (columns.before == encode_modes((False, False))) & (columns.inside == encode_modes((True, False)))
    chosen: Column = is_enabling & columns.manager.find("inference_mode".__eq__)
    return chosen


def find_enabling_inference_mode(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP107: ``inference_mode(False)`` in a block that disables grad, that block, and lines that built a graph."""
    found: dict[tuple[str, int], Finding] = {}
    for process, region in evidence.iter_regions(_leaves_inference_mode):
        at, ops = locate_site(process, region.site, ""), evidence.select_ops(process, region)
        if at is None or (at.file, at.line) in found or not (ops["nodes"] > 0).any():
            continue
        built = rank_lines(ops[ops["nodes"] > 0], "builds a graph here", _MAX_UNRECORDED_LINES)
        outer = region.parent
        while outer is not None and outer.inside[0]:
            outer = outer.parent
        around = None if outer is None else locate_site(process, outer.site, "grad disabled here")
        related = [*([] if around is None else [around]), *built]
        nodes = int(ops["nodes"].sum())
        message = (
            "inference_mode(False) enables grad here although the block around it disables it: "
            f"{pluralize(nodes, 'autograd node')} constructed inside."
        )
        function = process.place(region.site)[2]
        found[at.file, at.line] = Finding("GP107", message, at.file, at.line, function, 1, tuple(related))
    yield from found.values()


RULES = (
    find_enabling_inference_mode,
    find_leaked_modes,
    find_enable_grad_in_inference_mode,
    find_undecorated_overrides_that_ran,
)
"""Rules of this family; a recording is checked against each."""
