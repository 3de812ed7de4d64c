"""Rules about grad modes in threads, asyncio tasks and generators."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradprobe.analysis.findings.evidence import Evidence, locate_site, rank_lines
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.syntax import get_first_line, parse_file, walk_scope
from gradprobe.history.records import HELD_ACROSS_TASKS, OTHER_THREAD, OUT_OF_ORDER

_MAX_BUILDING_LINES = 3
_AWAITS = (ast.Await, ast.AsyncFor, ast.AsyncWith)


def find_unpropagated_thread_modes(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP701: the line that built a graph in another thread, and where the work was submitted."""
    ops = evidence.tables.ops
    for located in evidence.select_detections("GP701"):
        main, thread = located.main, located.detection.facts.get("thread")
        there = ops[(ops["thread"] == thread) & (ops["nodes"] > 0)] if len(ops) else ops
        built = rank_lines(there, "builds a graph with gradients on", 1)
        submitted = RelatedLine(main.file, main.line, main.role)
        at = built[0] if built else submitted
        related = (submitted, *located.related) if built else located.related
        mode = "with grad disabled" if located.mode is None else f"under {located.mode}"
        message = (
            f"Work submitted {mode} builds an autograd graph in thread {thread}: grad mode is thread-local and does not "
            "propagate."
        )
        yield Finding("GP701", message, at.file, at.line, None, located.count, related)


def find_decorated_coroutines(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP702: the decorator, and the lines of the body that built a graph in spite of it."""
    sites, ops = evidence.tables.sites, evidence.tables.ops
    for site in sites[sites["form"] == "decorator"].to_dict("records"):
        source, line = parse_file(site["file"]), int(site["line"])
        function = None if source is None else source.find_function_at(line)
        if source is None or not isinstance(function, ast.AsyncFunctionDef):
            continue
        if source.names.find_grad_decorator(function) is None or get_first_line(function) != line:
            continue
        end = function.end_lineno or function.lineno
        inside = (ops["file"] == site["file"]) & (ops["line"] > function.lineno) & (ops["line"] <= end)
        built = rank_lines(ops[inside & (ops["nodes"] > 0)], "builds a graph", _MAX_BUILDING_LINES) if len(ops) else []
        message = (
            f"{site['manager']} is entered and exited while {function.name} creates its coroutine; the body runs later, "
            "without the mode."
        )
        yield Finding("GP702", message, site["file"], line, function.name, int(site["count"]), tuple(built))


def find_modes_held_across_yield(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP703: the line that ran under a suspended generator's block, the block and its ``yield``."""
    for located in evidence.select_detections("GP703"):
        related = list(located.related)
        for block in located.related:
            related += _find_suspension(block.file, block.line, (ast.Yield, ast.YieldFrom), "yields here")
        message = "This runs under the mode of a block that a suspended generator holds open."
        yield located.make_finding(message, tuple(related))


def find_modes_held_across_await(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP704: blocks that changed the mode and were open while other tasks ran."""
    for process, region in evidence.iter_regions():
        if HELD_ACROSS_TASKS in region.irregular and region.before != region.inside and region.form == "with":
            at = locate_site(process, region.site, "")
            if at is not None:
                related = tuple(_find_suspension(at.file, at.line, _AWAITS, "awaits here"))
                message = (
                    f"{region.manager} is held open while this task waits, so other tasks of the thread run under it."
                )
                yield Finding("GP704", message, at.file, at.line, process.place(region.site)[2], 1, related)


def _find_suspension(file: str, line: int, kinds: tuple[type[ast.AST], ...], role: str) -> list[RelatedLine]:
    """Return the first line at which a block suspends its function while its mode stays active."""
    source = parse_file(file)
    block = None if source is None else source.find_block_at(line)
    found = [] if block is None else list(walk_scope(block, kinds))
    return [RelatedLine(file, int(getattr(node, "lineno", line)), role) for node in found[:1]]


def find_exits_out_of_order(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP705: inference mode blocks that exited before a block inside them, or on another thread."""
    for process, region in evidence.iter_regions():
        wrong = next((each for each in region.irregular if each in (OUT_OF_ORDER, OTHER_THREAD)), None)
        at = locate_site(process, region.site, "")
        if wrong is not None and at is not None and region.manager == "inference_mode":
            how = "out of order" if wrong == OUT_OF_ORDER else "on another thread"
            message = f"This inference_mode block was exited {how} and restored a stale mode."
            yield Finding("GP705", message, at.file, at.line, process.place(region.site)[2])


RULES = (
    find_unpropagated_thread_modes,
    find_decorated_coroutines,
    find_modes_held_across_yield,
    find_modes_held_across_await,
    find_exits_out_of_order,
)
"""Rules of this family; a recording is checked against each."""
