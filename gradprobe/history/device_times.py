"""What accelerators say of the edges of blocks, tied to the regions of a history."""

from __future__ import annotations

from dataclasses import dataclass

from gradprobe.history.records import History, Region
from gradprobe.recording.events import DEVICE, ENTER, EXIT
from gradprobe.recording.sqlite_file import Contents


@dataclass(frozen=True)
class DeviceTime:
    """From when a device passed the beginning of a region to when it passed its end.

    ``lag_ns`` is how far the device was behind the processor at the end. ``peak_bytes`` is by how much tensors on the
    device held more than at the beginning, at the most; None where the process had held more before.
    """

    device: int
    ns: int
    lag_ns: int
    allocated_bytes: int | None
    peak_bytes: int | None


def device_times(contents: Contents, history: History) -> dict[Region, DeviceTime]:
    """Of the regions both of whose edges were marked, on one device."""
    rows = contents.accounts.get("devices")
    if rows is None:
        return {}
    known = {int(row["key"]): row for row in rows}
    origin = int(contents.meta.get("began_ns", 0))
    begun = {mark.region: mark for mark in history.marks if mark.op == DEVICE | ENTER and mark.region is not None}
    found = {}
    for mark in history.marks:
        first = begun.get(mark.region) if mark.op == DEVICE | EXIT and mark.region is not None else None
        if first is None or mark.region is None:
            continue
        begin, end = known.get(first.key), known.get(mark.key)
        if begin is None or end is None or begin["device"] != end["device"]:
            continue
        tells = begin["allocated"] >= 0 and end["allocated"] >= 0
        found[mark.region] = DeviceTime(
            int(end["device"]),
            int(end["passed_ns"] - begin["passed_ns"]),
            max(int(end["passed_ns"]) - origin - mark.time_ns, 0),
            int(end["allocated"] - begin["allocated"]) if tells else None,
            int(end["peak"] - begin["allocated"]) if tells and end["peak"] > begin["peak"] else None,
        )
    return found
