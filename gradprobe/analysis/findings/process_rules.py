"""Rules that need several processes: workers that do not inherit a mode, and ranks that differ."""

from __future__ import annotations

from collections.abc import Iterator

from gradprobe.analysis.findings.dataset_items import locate_item_code
from gradprobe.analysis.findings.evidence import Evidence, is_library, rank_lines
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.process_relations import (
    find_collective_calls,
    find_graph_divergences,
    group_by_rank,
    relate_processes,
)
from gradprobe.recording.events import mode_name

_MAX_BUILDING_LINES = 3


def find_unpropagated_process_modes(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP706: lines that built a graph in a process started under no_grad or inference mode."""
    ops = evidence.tables.ops
    for relation in relate_processes(evidence.processes):
        start = relation.start
        if (
            start is None
            or relation.initial_modes != (True, False)
            or (start.grad and not start.inference)
            or ops.empty
        ):
            continue
        # A graph that is built inside a block of the process is intended.
        there = ops[(ops["process"] == relation.process.pid) & (ops["nodes"] > 0) & ops["region"].isna()]
        lines = rank_lines(there, "builds a graph", _MAX_BUILDING_LINES)
        built = [line for line in lines if not is_library(line.file)]
        if built:
            mode = mode_name(start.grad, start.inference)
            message = (
                f"This builds a graph in a process that was started under {mode}: a spawned process does not inherit the "
                "mode."
            )
            related = (RelatedLine(start.file, start.line, "process started here"), *built[1:])
            yield Finding("GP706", message, built[0].file, built[0].line, None, 1, related)
    for located in evidence.select_detections("worker"):
        mode = located.mode or "disabled grad"
        message = (
            f"A worker process that was started here under {mode} failed on a tensor that has a graph: a spawned process "
            f"does not inherit the mode. Its error: {located.detection.facts.get('error')}"
        )
        main = located.main
        related = (*located.related, *locate_item_code(main.file, main.line))
        yield Finding("GP706", message, main.file, main.line, main.function, located.count, related)


def find_rank_graph_differences(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP901: lines that all ranks ran and that created autograd nodes on some of them only."""
    for divergence in find_graph_divergences(group_by_rank(evidence.processes)):
        file, line = divergence.line
        if not is_library(file):
            building = [rank for rank, nodes in divergence.nodes.items() if nodes]
            others = [rank for rank, nodes in divergence.nodes.items() if not nodes]
            message = f"A graph is built here on {_format_ranks(building)}, but not on {_format_ranks(others)}."
            yield Finding("GP901", message, file, line)


def find_rank_mode_differences(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP902: collective operators that ranks run under different modes."""
    for call in find_collective_calls(group_by_rank(evidence.processes)):
        if len(set(call.modes.values())) > 1:
            by_rank = "; ".join(f"{', '.join(sorted(modes))} on rank {rank}" for rank, modes in call.modes.items())
            lines = sorted({line for lines in call.blocks.values() for line in lines} - {call.line})
            related = tuple(RelatedLine(file, line, "mode set here") for file, line in lines)
            message = f"{call.op} runs under different modes: {by_rank}."
            yield Finding("GP902", message, *call.line, None, 1, related)


def _format_ranks(ranks: list[int]) -> str:
    return f"rank{'' if len(ranks) == 1 else 's'} {', '.join(map(str, ranks))}"


RULES = (
    find_unpropagated_process_modes,
    find_rank_graph_differences,
    find_rank_mode_differences,
)
"""Rules of this family; a recording is checked against each."""
