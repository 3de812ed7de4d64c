"""Section on accelerator time: which blocks wait for the host, and which for the device."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from gradprobe.history.device_times import DeviceTime
from gradprobe.report.document import Section, Table
from gradprobe.report.units import MISSING, format_bytes, format_count, format_duration, format_location
from gradprobe.tables.recording_tables import RecordingTables
from gradprobe.tables.region_cells import duration_ns

_LAG_NS, _LAG_SHARE = 20_000, 0.1
LAUNCH_BOUND, KERNEL_BOUND = "launch-bound", "kernel-bound"
_EXPLANATION = (
    "Launch-bound: the device was idle when the block ended, because it waited for the host to launch work, or because the "
    "block synchronized with it, as `.item()` does. Kernel-bound: work was still queued."
)


def build_section(tables: RecordingTables, top: int) -> Section | None:
    """Build a row per site with device time."""
    groups: dict[tuple[str | None, int | None, str], list[tuple[int, DeviceTime]]] = defaultdict(list)
    for process in tables.processes:
        for region, time in process.device_times.items():
            file, line, _ = process.place(region.site)
            groups[file, line, region.manager].append((duration_ns(region), time))
    if not groups:
        return None
    rows = []
    for (file, line, manager), times in sorted(groups.items(), key=lambda item: -sum(t.ns for _, t in item[1]))[:top]:
        lag = median(time.lag_ns for _, time in times)
        grown = [time.allocated_bytes for _, time in times if time.allocated_bytes is not None]
        peaks = [time.peak_bytes for _, time in times if time.peak_bytes is not None]
        rows.append(
            (
                format_location(file, line),
                manager,
                format_count(len(times)),
                format_duration(sum(took for took, _ in times)),
            )
            + (format_duration(sum(time.ns for _, time in times)), format_duration(lag), classify_bound(times))
            + (_format_change(sum(grown)) if grown else MISSING, format_bytes(max(peaks)) if peaks else MISSING)
        )
    columns = ("site", "manager", "count", "time", "device time", "device lag", "bound", "memory change", "peak memory")
    table = Table(columns, rows, frozenset({*columns[2:6], *columns[7:]}), max(len(groups) - top, 0))
    return Section("Device time", [_EXPLANATION], table)


def classify_bound(times: list[tuple[int, DeviceTime]]) -> str:
    """Classify the blocks of a site by how far the device lagged behind when they ended."""
    lag, took = median(time.lag_ns for _, time in times), median(took for took, _ in times)
    return KERNEL_BOUND if lag > max(_LAG_NS, _LAG_SHARE * took) else LAUNCH_BOUND


def _format_change(number: int) -> str:
    return f"-{format_bytes(-number)}" if number < 0 else str(format_bytes(number))
