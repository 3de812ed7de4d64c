"""The section on the time of accelerators: which blocks wait for the processor, and which for the device."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from gradprobe.history.device_times import DeviceTime
from gradprobe.report.document import Section, Table
from gradprobe.report.units import format_bytes, format_count, format_duration, format_location
from gradprobe.tables.recording_tables import RecordingTables
from gradprobe.tables.region_cells import duration_ns

_LAG_NS, _LAG_SHARE = 20_000, 0.1
LAUNCH_BOUND, KERNEL_BOUND = "launch-bound", "kernel-bound"
_WHAT = (
    "Launch-bound: when the block ended the device had caught up with the processor, which was what it waited for; or the "
    "block itself waited for the device, as `.item()` does. Kernel-bound: work was still queued."
)


def build_section(tables: RecordingTables, top: int) -> Section | None:
    """A row per site with device time."""
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
        held = [time.allocated_bytes for _, time in times if time.allocated_bytes is not None]
        peaks = [time.peak_bytes for _, time in times if time.peak_bytes is not None]
        rows.append(
            (
                format_location(file, line),
                manager,
                format_count(len(times)),
                format_duration(sum(took for took, _ in times)),
            )
            + (format_duration(sum(time.ns for _, time in times)), format_duration(lag), classify_bound(times))
            + (_signed(sum(held)) if held else "-", format_bytes(max(peaks)) if peaks else "-")
        )
    columns = ("site", "manager", "count", "time", "device time", "device behind", "bound", "held more", "peak")
    table = Table(columns, rows, frozenset({*columns[2:6], *columns[7:]}), max(len(groups) - top, 0))
    return Section("Device time", [_WHAT], table)


def classify_bound(times: list[tuple[int, DeviceTime]]) -> str:
    """What the blocks of a site waited for, by how far the device was behind as they ended."""
    lag, took = median(time.lag_ns for _, time in times), median(took for took, _ in times)
    return KERNEL_BOUND if lag > max(_LAG_NS, _LAG_SHARE * took) else LAUNCH_BOUND


def _signed(number: int) -> str:
    return f"-{format_bytes(-number)}" if number < 0 else str(format_bytes(number))
