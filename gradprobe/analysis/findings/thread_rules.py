"""Modes and threads, tasks and generators."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradprobe.analysis.findings.evidence import Evidence, locate_site, rank_lines
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.syntax import ParsedFile, find_grad_decorator, get_first_line, parse_file, walk_scope
from gradprobe.history.records import HELD_ACROSS_TASKS, OTHER_THREAD, OUT_OF_ORDER

_LINES = 3


def find_unpropagated_thread_modes(evidence: Evidence) -> Iterator[Finding]:
    """GP701: the line that built a graph in another thread, and where the work was handed over under which mode."""
    ops = evidence.tables.ops
    for seen in evidence.of("GP701"):
        thread = seen.sighting.facts.get("thread")
        there = ops[(ops["thread"] == thread) & (ops["nodes"] > 0)] if len(ops) else ops
        built = rank_lines(there, "builds a graph with gradients on", 1)
        at = built[0] if built else RelatedLine(seen.main.file, seen.main.line, seen.main.role)
        related = (
            (RelatedLine(seen.main.file, seen.main.line, seen.main.role), *seen.related) if built else seen.related
        )
        message = (
            f"thread {thread} builds a graph for work that was handed over under a mode without gradients: modes belong to "
            "the thread."
        )
        yield Finding("GP701", message, at.file, at.line, None, seen.count, related)


def find_decorated_coroutines(evidence: Evidence) -> Iterator[Finding]:
    """GP702: the decorator, and the lines of the body that built a graph all the same."""
    sites, ops = evidence.tables.sites, evidence.tables.ops
    for site in sites[sites["form"] == "decorator"].to_dict("records"):
        source = parse_file(site["file"])
        function = None if source is None else source.find_function_at(int(site["line"]))
        decorator = find_grad_decorator(function) if isinstance(function, ast.AsyncFunctionDef) else None
        if function is None or decorator is None or get_first_line(function) != int(site["line"]):
            continue
        end = function.end_lineno or function.lineno
        inside = (ops["file"] == site["file"]) & (ops["line"] > function.lineno) & (ops["line"] <= end)
        ran = rank_lines(ops[inside & (ops["nodes"] > 0)], "builds a graph", _LINES) if len(ops) else []
        message = (
            f"{site['manager']} is entered and left while {function.name} makes its coroutine; the body runs later."
        )
        line, count = int(site["line"]), int(site["count"])
        yield Finding("GP702", message, site["file"], line, function.name, count, tuple(ran))


def find_modes_held_across_yield(evidence: Evidence) -> Iterator[Finding]:
    """GP703: the line that ran under a suspended generator's block, the block and its ``yield``."""
    for seen in evidence.of("GP703"):
        related = list(seen.related)
        for place in seen.related:
            related += _suspensions(place.file, place.line, (ast.Yield, ast.YieldFrom), "yields here")
        message = "this runs under the mode of a block in a generator that is suspended inside of it."
        main = seen.main
        yield Finding("GP703", message, main.file, main.line, main.function, seen.count, tuple(related))


def find_modes_held_across_await(evidence: Evidence) -> Iterator[Finding]:
    """GP704: blocks that changed the mode and were open while other tasks ran."""
    for process, region in evidence.regions():
        if HELD_ACROSS_TASKS in region.irregular and region.before != region.inside and region.form == "with":
            at = locate_site(process, region.site, "")
            if at is not None:
                awaits = (ast.Await, ast.AsyncFor, ast.AsyncWith)
                related = tuple(_suspensions(at.file, at.line, awaits, "awaits here"))
                message = f"{region.manager} is held while this task waits: other tasks of the thread run under it."
                yield Finding("GP704", message, at.file, at.line, process.place(region.site)[2], 1, related)


def _suspensions(file: str, line: int, kinds: tuple[type[ast.AST], ...], role: str) -> list[RelatedLine]:
    """Where a block gives control away with its mode in force."""
    source: ParsedFile | None = parse_file(file)
    block = None if source is None else source.block_at(line)
    found = [] if block is None else list(walk_scope(block, kinds))
    return [RelatedLine(file, int(getattr(node, "lineno", line)), role) for node in found[:1]]


def find_exits_out_of_order(evidence: Evidence) -> Iterator[Finding]:
    """GP705: blocks of inference mode that were left after one around them, or on another thread."""
    for process, region in evidence.regions():
        wrong = [text for text in region.irregular if text in (OUT_OF_ORDER, OTHER_THREAD)]
        at = locate_site(process, region.site, "")
        if wrong and at is not None and region.manager == "inference_mode":
            message = f"this block of {region.manager} was {wrong[0]}: the modes after it are not those before it."
            yield Finding("GP705", message, at.file, at.line, process.place(region.site)[2])
