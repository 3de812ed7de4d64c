"""Device times: when accelerators passed the edges of the regions of a history."""

from __future__ import annotations

from dataclasses import dataclass

from gradprobe.history.process_history import History
from gradprobe.history.records import Region
from gradprobe.recording.contents import Contents
from gradprobe.recording.events import DEVICE, ENTER, EXIT


@dataclass(frozen=True)
class DeviceTime:
    """Time that a device took from the beginning of a region to its end, and the growth of its memory.

    ``lag_ns`` is the time by which the device was behind the processor at the end. ``peak_bytes`` is the maximum growth of
    the memory that tensors use on the device; None if the process had used more before.
    """

    device: int
    ns: int
    lag_ns: int
    allocated_bytes: int | None
    peak_bytes: int | None


def compute_device_times(contents: Contents, history: History) -> dict[Region, DeviceTime]:
    """Return the device times of the regions both of whose edges were recorded, on one device."""
    rows = contents.accounts.get("devices")
    if rows is None:
        return {}
    by_key = {int(row["key"]): row for row in rows}
    origin = int(contents.meta.get("began_ns", 0))
    begun = {mark.region: mark for mark in history.marks.of(DEVICE | ENTER) if mark.region is not None}
    found = {}
    for mark in history.marks.of(DEVICE | EXIT):
        first = begun.get(mark.region) if mark.region is not None else None
        if first is None or mark.region is None:
            continue
        begin, end = by_key.get(first.key), by_key.get(mark.key)
        if begin is None or end is None or begin["device"] != end["device"]:
            continue
        has_memory = begin["allocated"] >= 0 and end["allocated"] >= 0
        found[mark.region] = DeviceTime(
            int(end["device"]),
            int(end["passed_ns"] - begin["passed_ns"]),
            max(int(end["passed_ns"]) - origin - mark.time_ns, 0),
            int(end["allocated"] - begin["allocated"]) if has_memory else None,
            int(end["peak"] - begin["allocated"]) if has_memory and end["peak"] > begin["peak"] else None,
        )
    return found
