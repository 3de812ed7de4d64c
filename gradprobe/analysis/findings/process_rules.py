"""What shows only across processes: workers that are not in the modes of those who started them, ranks that part."""

from __future__ import annotations

from collections.abc import Iterator

from gradprobe.analysis.findings.evidence import Evidence, is_library, rank_lines
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.process_relations import (
    find_collective_calls,
    find_graph_divergences,
    group_by_rank,
    relate_processes,
)
from gradprobe.recording.events import mode_name

_LINES = 3


def find_unpropagated_process_modes(evidence: Evidence) -> Iterator[Finding]:
    """GP706: the line that built a graph in a process that was started under a mode without gradients."""
    ops = evidence.tables.ops
    for relation in relate_processes(evidence.processes):
        start = relation.started
        if start is None or relation.began != (True, False) or (start.grad and not start.inference) or ops.empty:
            continue
        # A graph that is built in a block was asked for there.
        there = ops[(ops["process"] == relation.process.pid) & (ops["nodes"] > 0) & ops["region"].isna()]
        built = [place for place in rank_lines(there, "builds a graph", _LINES) if not is_library(place.file)]
        if built:
            mode = mode_name(start.grad, start.inference)
            message = f"this builds a graph in a process that was started under {mode}: modes do not go along."
            related = (RelatedLine(start.file, start.line, "process started here"), *built[1:])
            yield Finding("GP706", message, built[0].file, built[0].line, None, 1, related)


def find_rank_graph_differences(evidence: Evidence) -> Iterator[Finding]:
    """GP901: lines that all ranks ran, and that constructed nodes on some of them only."""
    for parting in find_graph_divergences(group_by_rank(evidence.processes)):
        file, line = parting.line
        if not is_library(file):
            built = [rank for rank, nodes in parting.nodes.items() if nodes]
            none = [rank for rank, nodes in parting.nodes.items() if not nodes]
            message = f"a graph is built here on {_ranks(built)} and none on {_ranks(none)}."
            yield Finding("GP901", message, file, line)


def find_rank_mode_differences(evidence: Evidence) -> Iterator[Finding]:
    """GP902: a collective operator that ranks run under different modes."""
    for meeting in find_collective_calls(group_by_rank(evidence.processes)):
        if len(set(meeting.modes.values())) > 1:
            told = [f"{', '.join(sorted(modes))} on rank {rank}" for rank, modes in meeting.modes.items()]
            lines = sorted({line for lines in meeting.blocks.values() for line in lines} - {meeting.line})
            related = tuple(RelatedLine(file, line, "mode set here") for file, line in lines)
            message = f"{meeting.op} runs under different modes: {'; '.join(told)}."
            yield Finding("GP902", message, *meeting.line, None, 1, related)


def _ranks(ranks: list[int]) -> str:
    return f"rank{'' if len(ranks) == 1 else 's'} {', '.join(map(str, ranks))}"
