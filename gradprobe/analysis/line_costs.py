"""Cost of a source line: graphs that it keeps or builds, bytes that it saves, time of the blocks that begin there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gradprobe.tables.recording_tables import RecordingTables

Place = tuple[str, int]


@dataclass
class LineCost:
    """Sums over everything that was recorded at a line."""

    calls: int = 0
    """Number of calls of operators."""
    nodes: int = 0
    saved_bytes: int = 0
    version_bumps: int = 0
    inference_tensors: int = 0
    blocks: int = 0
    block_ns: int = 0
    kept_nodes: int = 0
    """Nodes of graphs that were built there and are kept beyond their use."""
    kept_bytes: int = 0
    managers: tuple[str, ...] = ()
    """Context managers of the blocks that begin there."""


NO_COST = LineCost()


def sum_by_line(tables: RecordingTables) -> Mapping[Place, LineCost]:
    """Return the cost of each line of each file."""
    found: dict[Place, LineCost] = defaultdict(LineCost)
    for process in tables.processes:
        places = {site: process.place(site)[:2] for site in process.contents.sites}
        for key, known in process.op_totals.ops.without_regions.items():
            file, line = places.get(key.site, (None, None))
            if file is not None and line is not None:
                cost, account = found[file, line], known.account
                cost.calls += account.calls
                cost.nodes += account.nodes
                cost.saved_bytes += known.saved_bytes
                cost.version_bumps += account.version_bumps
                cost.inference_tensors += account.inference_outputs
    for file, line, manager, count, total_ns in _rows(tables, "sites", "file", "line", "manager", "count", "total_ns"):
        cost = found[file, line]
        cost.blocks += count
        cost.block_ns += total_ns
        cost.managers += (manager,) if manager not in cost.managers else ()
    for file, line, nodes, size in _rows(tables, "custody", "file", "line", "nodes", "bytes"):
        cost = found[file, line]
        cost.kept_nodes += nodes
        cost.kept_bytes += size if size == size else 0
    return found


def _rows(tables: RecordingTables, table: str, *names: str) -> Iterable[tuple]:  # type: ignore[type-arg]
    """Yield the named columns of the rows of a table that have a place."""
    frame = getattr(tables, table)
    frame = frame[frame["file"].notna() & frame["line"].notna()]
    for row in frame[list(names)].itertuples(index=False, name=None):
        yield (row[0], int(row[1]), *row[2:])
