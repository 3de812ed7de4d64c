"""Section on the memory of autograd graphs over time: which lines hold it, and which of them hold more and more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.graph_growth import MIN_SAMPLES, LineMemory, measure_lines, select_comparable
from gradprobe.history.process import Process
from gradprobe.phases import AFTER_BACKWARD
from gradprobe.recording.graph_memory import FURTHER_LINES, NOTHING, GraphLine, MemorySample
from gradprobe.report.document import Chart, Section, Table
from gradprobe.report.units import (
    MISSING,
    escape_unprintable,
    format_bytes,
    format_count,
    format_duration,
    format_location,
    format_text,
)
from gradprobe.tables.recording_tables import RecordingTables

MAX_MOMENTS = 200
"""Maximum number of moments in the chart."""
_MAX_LAYERS = 8
_COLUMNS = ("site", "operator", "peak tensors", "peak nodes", "peak bytes", "last bytes", "bytes per iteration")
_UNITS = (("s", 1e9), ("ms", 1e6), ("us", 1e3))


def build_section(tables: RecordingTables, top: int) -> Section | None:
    """Build the section, folded unless a line grows; None if there are too few moments for a curve."""
    process, samples = _choose_process(tables.processes)
    if process is None:
        return None
    lines = measure_lines(samples)
    growing = [memory for memory in lines if memory.is_growing]
    sentences = [_describe_growth(memory) for memory in growing[:top]] or ["The graphs of no line grow steadily."]
    sentences += _describe_samples(tables.processes, process, samples)
    rows = [_build_row(memory) for memory in lines[:top]]
    table = Table(_COLUMNS, rows, frozenset(_COLUMNS[2:]), max(len(lines) - top, 0))
    chart = _build_chart(samples, [memory.line for memory in lines], process.offset_ns)
    return Section("Memory of graphs over time", sentences, table, folded=not growing, chart=chart)


def _choose_process(processes: Sequence[Process]) -> tuple[Process | None, list[MemorySample]]:
    """Return the process whose graphs held the most bytes, and its comparable samples."""
    curves = [(process, select_comparable(process.memory_samples)) for process in processes]
    curves = [(process, samples) for process, samples in curves if len(samples) >= MIN_SAMPLES]
    if not curves:
        return None, []
    return max(curves, key=lambda curve: max(sample.bytes for sample in curve[1]))


def _describe_growth(memory: LineMemory) -> str:
    line = memory.line
    subject = "What further lines hold" if line == FURTHER_LINES else f"{_name_line(line)}: what its results hold"
    change = (
        f"from {_describe(memory.first.bytes, memory.first.nodes)} to {_describe(memory.last.bytes, memory.last.nodes)}"
    )
    size, nodes = memory.bytes_per_iteration, memory.nodes_per_iteration
    if size is None or nodes is None:
        return f"{subject} grows {change} within {format_duration(memory.length_ns)}."
    return f"{subject} grows by {_describe(round(size), round(nodes))} per iteration, {change}."


def _describe(size: int, nodes: int) -> str:
    return f"{format_bytes(size)} in {pluralize(nodes, 'node')}"


def _describe_samples(processes: Sequence[Process], process: Process, samples: Sequence[MemorySample]) -> Iterator[str]:
    yield (
        f"Graphs were looked at {len(samples):,} times, ever more rarely: as calls of backward() began, each of which "
        "counts as an iteration, or while there were none."
    )
    if len(processes) > 1:
        yield f"This is process {process.pid}, whose graphs held the most; the table graph_memory has the others."


def _name_line(line: GraphLine) -> str:
    return f"{format_location(line.file, line.line)} ({escape_unprintable(line.op)})"


def _build_row(memory: LineMemory) -> Sequence[str]:
    line, peak = memory.line, memory.peak
    site = "(further lines)" if line == FURTHER_LINES else format_location(line.file, line.line)
    growth = memory.bytes_per_iteration if memory.is_growing else None
    return (
        (site, format_text(line.op), format_count(peak.tensors), format_count(peak.nodes), format_bytes(peak.bytes))
        + (format_bytes(memory.last.bytes), MISSING if growth is None else format_bytes(round(growth)))
    )  # fmt: skip


def _build_chart(samples: Sequence[MemorySample], lines: Sequence[GraphLine], offset_ns: int) -> Chart:
    shown = _thin(samples)
    layers = [line for line in lines if line != FURTHER_LINES][:_MAX_LAYERS]
    end = max(shown[-1].time_ns + offset_ns, 1)
    unit, scale = next((unit for unit in _UNITS if end >= unit[1]), _UNITS[-1])
    rows: list[dict[str, Any]] = []
    for sample in shown:
        moment = {
            "time": (sample.time_ns + offset_ns) / scale,
            "iteration": sample.iteration,
            "phase": "" if sample.phase == AFTER_BACKWARD else escape_unprintable(sample.phase),
        }
        further = set(sample.held) - set(layers)
        parts = [(_name_line(line), sample.held.get(line, NOTHING)) for line in layers]
        named = [(name, held.bytes, held.nodes) for name, held in parts]
        if len(lines) > len(layers):
            size = sum(sample.held[line].bytes for line in further)
            named.append(("further lines", size, sum(sample.held[line].nodes for line in further)))
        rows += [
            {**moment, "line": name, "bytes": size, "shown": format_bytes(size), "nodes": nodes}
            for name, size, nodes in named
        ]
    caption = (
        "Bytes that autograd graphs held, by the line whose results held them; a column of time per moment looked at."
    )
    return Chart("graph-memory", "memory", caption, rows, unit)


def _thin(samples: Sequence[MemorySample]) -> list[MemorySample]:
    """Return at most ``MAX_MOMENTS`` samples, evenly spread over the time, with the first and the last."""
    if len(samples) <= MAX_MOMENTS:
        return list(samples)
    begin, length = samples[0].time_ns, max(samples[-1].time_ns - samples[0].time_ns, 1)
    slots = {(sample.time_ns - begin) * (MAX_MOMENTS - 1) // length: sample for sample in samples}
    return [*slots.values()]
