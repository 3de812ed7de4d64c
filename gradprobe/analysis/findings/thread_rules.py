"""Rules about grad modes in threads, asyncio tasks and generators."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import numpy as np

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.findings.evidence import Evidence, locate_site, rank_lines
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.held_modes import find_held_modes
from gradprobe.analysis.findings.left_modes import find_left_modes
from gradprobe.analysis.findings.source_fixes import advise_moving_inside, write_call
from gradprobe.analysis.findings.syntax import get_first_line, parse_file, walk_scope
from gradprobe.history.process import Process
from gradprobe.history.records import OTHER_THREAD, OUT_OF_ORDER, encode_modes
from gradprobe.history.region_table import add_up
from gradprobe.recording.events import mode_name

_MAX_BUILDING_LINES = 3
_AWAITS = (ast.Await, ast.AsyncFor, ast.AsyncWith)


def find_unpropagated_thread_modes(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP701: the line that built a graph in another thread, and where the work was submitted."""
    ops = evidence.tables.ops
    for located in evidence.select_detections("GP701"):
        main, facts = located.main, located.detection.facts
        thread, nodes = facts.get("thread"), int(facts.get("nodes", 0))
        if nodes and _count_enabled_nodes(located.process, int(facts.get("ident", 0))) >= nodes:
            continue
        names = {
            located.process.thread(number) for number in _find_threads(located.process, int(facts.get("ident", 0)))
        }
        there = ops[ops["thread"].isin(names) & (ops["nodes"] > 0)] if len(ops) else ops
        built = rank_lines(there, "builds a graph here", 1)
        submitted = RelatedLine(main.file, main.line, main.role)
        at = built[0] if built else submitted
        related = (submitted, *located.related) if built else located.related
        mode = "with grad disabled" if located.mode is None else f"under {located.mode}"
        message = (
            f"Work submitted {mode} built {pluralize(nodes, 'autograd node')} in thread {thread}, and no backward pass ran "
            "there: grad mode is thread-local, and every thread starts with grad enabled."
        )
        yield Finding("GP701", message, at.file, at.line, None, located.count, related)


def _count_enabled_nodes(process: Process, ident: int) -> int:
    """Return the number of nodes built in blocks of a thread that enable grad on purpose."""
    numbers = _find_threads(process, ident)
    columns = process.history.regions.columns
    is_enabled = np.isin(columns.thread, list(numbers)) & (columns.inside == encode_modes((True, False)))
    return add_up(columns.nodes[is_enabled & (columns.parent < 0) & columns.counts_nodes])


def _find_threads(process: Process, ident: int) -> set[int]:
    """Return the numbers of the threads that had an identifier, which is reused when a thread has ended."""
    return {thread.id for thread in process.contents.threads.values() if thread.ident == ident}


def find_decorated_coroutines(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP702: the decorator, and the lines of the body that built a graph in spite of it."""
    sites, ops = evidence.tables.sites, evidence.tables.ops
    for site in sites[sites["form"] == "decorator"].to_dict("records"):
        source, line = parse_file(site["file"]), int(site["line"])
        function = None if source is None else source.find_function_at(line)
        if source is None or not isinstance(function, ast.AsyncFunctionDef):
            continue
        decorator = source.names.find_grad_decorator(function)
        if decorator is None or get_first_line(function) != line:
            continue
        end = function.end_lineno or function.lineno
        inside = (ops["file"] == site["file"]) & (ops["line"] > function.lineno) & (ops["line"] <= end)
        built = rank_lines(ops[inside & (ops["nodes"] > 0)], "builds a graph", _MAX_BUILDING_LINES) if len(ops) else []
        message = (
            f"`@{write_call(decorator)}` has no effect on the body of {function.name}: it is entered and exited while the "
            "coroutine is created, and the body runs later, without the mode."
        )
        fix = advise_moving_inside(decorator, function)
        yield Finding("GP702", message, site["file"], line, function.name, int(site["count"]), tuple(built), fix)


def find_modes_held_across_yield(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP703: the line that ran under a suspended generator's block, the block and its ``yield``."""
    for left in find_left_modes(evidence):
        if left.form != "generator" or not left.harm:
            continue
        at, *others = left.victims
        block = RelatedLine(left.file, left.line, "block entered here")
        yields = _find_suspension(left.file, left.line, (ast.Yield, ast.YieldFrom), "yields here")
        message = (
            f"This runs with grad disabled, because the generator {left.function} is suspended inside its block: it "
            "records no graph, although tensors that require grad go in."
        )
        yield Finding("GP703", message, at.file, at.line, None, 1, (block, *yields, *others))


def find_modes_held_across_await(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP704: blocks that were open while other tasks ran, if one of those lost a gradient or the mode was left."""
    lost = {(left.file, left.line): left.victims for left in find_left_modes(evidence) if left.form == "task"}
    known: set[tuple[str, int]] = set()
    for process in evidence.processes:
        for held in find_held_modes(process):
            at = locate_site(process, held.region.site, "")
            if at is None or (at.file, at.line) in known:
                continue
            victims = lost.get((at.file, at.line), [])
            if not victims and held.stuck_in is None:
                continue
            known.add((at.file, at.line))
            lines = [*_find_suspension(at.file, at.line, _AWAITS, "awaits here")]
            lines += [RelatedLine(v.file, v.line, "another task lost a gradient here") for v in victims]
            lines += [
                line
                for other in held.others
                if (line := locate_site(process, other.site, "another task entered a block here, and exited it later"))
            ]
            message = (
                f"{held.region.manager} is held open while this task waits, so other tasks of the thread run under it."
            )
            if held.stuck_in is not None:
                message += f" The blocks exited out of order and left the thread in {mode_name(*held.stuck_in)}."
            function = process.place(held.region.site)[2]
            yield Finding("GP704", message, at.file, at.line, function, 1, tuple(dict.fromkeys(lines)))
    for (file, entered), victims in lost.items():
        if victims and (file, entered) not in known:
            lines = [*_find_suspension(file, entered, _AWAITS, "awaits here")]
            lines += [RelatedLine(v.file, v.line, "another task lost a gradient here") for v in victims]
            message = "This block is held open while its task waits, so other tasks of the thread run under it."
            yield Finding("GP704", message, file, entered, None, 1, tuple(dict.fromkeys(lines)))


def _find_suspension(file: str, line: int, kinds: tuple[type[ast.AST], ...], role: str) -> list[RelatedLine]:
    """Return the first line at which a block suspends its function while its mode stays active."""
    source = parse_file(file)
    block = None if source is None else source.find_block_at(line)
    found = [] if block is None else list(walk_scope(block, kinds))
    return [RelatedLine(file, int(getattr(node, "lineno", line)), role) for node in found[:1]]


def find_exits_out_of_order(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP705: blocks that exited on another thread, and inference mode blocks that exited before one inside them."""
    closers = {(each.main.file, each.main.line): each.related for each in evidence.select_detections("closed")}
    for process in evidence.processes:
        regions, transitions = process.history.regions, process.history.transitions
        irregular = set(regions.where(regions.columns.is_irregular))
        if not irregular:
            continue
        is_exit = transitions.columns.event.find("exit".__eq__)
        is_irregular = np.isin(transitions.columns.region, [region.number for region in irregular])
        exits = {t.region: t for t in transitions.where(is_exit & is_irregular)}
        for region in sorted(irregular, key=lambda each: each.number):
            wrong = next((each for each in region.irregular if each in (OUT_OF_ORDER, OTHER_THREAD)), None)
            at = locate_site(process, region.site, "")
            if wrong is None or at is None or region.internal or region.before == region.inside:
                continue
            exited = exits.get(region)
            if wrong == OTHER_THREAD and exited is not None:
                message = (
                    f"This {region.manager} block was entered in {process.thread(region.thread)} and exited in "
                    f"{process.thread(exited.thread)}: the first thread stays in {mode_name(*region.inside)}, the other "
                    f"one was set to {mode_name(*exited.after)}."
                )
            elif region.manager == "inference_mode":
                message = f"This {region.manager} block exited out of order and restored a stale mode."
            else:
                continue
            related = closers.get((at.file, at.line), ())
            if exited is not None and not related:
                line = locate_site(process, exited.site, "exited here")
                related = () if line is None or line.line == at.line else (line,)
            yield Finding("GP705", message, at.file, at.line, process.place(region.site)[2], 1, related)


RULES = (
    find_unpropagated_thread_modes,
    find_decorated_coroutines,
    find_modes_held_across_yield,
    find_modes_held_across_await,
    find_exits_out_of_order,
)
"""Rules of this family; a recording is checked against each."""
