"""Process of a recording: its contents, their history, and the names of its threads and places."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gradprobe.history.device_times import DeviceTime, compute_device_times
from gradprobe.history.interpreter import interpret
from gradprobe.history.leaf_uses import LeafUse, read_leaf_uses
from gradprobe.history.op_totals import OpTotals
from gradprobe.history.process_history import History
from gradprobe.history.records import Region
from gradprobe.history.row_queue import ProgressIterator
from gradprobe.recording.contents import Contents
from gradprobe.recording.events import COMPILED_CALL
from gradprobe.recording.flow import FlowLedger, read_flow
from gradprobe.recording.graph_memory import MemorySample, read_memory_samples
from gradprobe.recording.module_roots import ModuleNames, read_module_names
from gradprobe.recording.source_lines import SourceLines, read_source_lines


@dataclass(frozen=True)
class Process:
    """Process of a recording.

    ``offset_ns`` puts its times on the common axis of a merged recording, ``first_region`` its regions in one numbering.
    """

    contents: Contents
    history: History
    include_torch: bool
    offset_ns: int = 0
    first_region: int = 0

    @cached_property
    def op_totals(self) -> OpTotals:
        """Totals of what operators did in it."""
        return OpTotals(self.contents, self.history, self.module_names)

    @cached_property
    def flow(self) -> FlowLedger:
        """Flow of tensors through it, and the graphs that it constructed."""
        return read_flow(self.contents.notes, self.module_names.show)

    @cached_property
    def module_names(self) -> ModuleNames:
        """Names of its modules."""
        return read_module_names(self.contents.notes)

    @cached_property
    def memory_samples(self) -> list[MemorySample]:
        """Memory of its graphs at moments since it began, in their order."""
        began = int(self.contents.meta.get("began_ns", 0))
        samples = read_memory_samples(self.contents.notes)
        return [sample._replace(time_ns=sample.time_ns - began) for sample in samples if sample.time_ns >= began]

    @cached_property
    def source_lines(self) -> SourceLines:
        """Text of the recorded lines, by file and number."""
        return read_source_lines(self.contents.notes)

    @cached_property
    def leaf_uses(self) -> dict[int, LeafUse]:
        """Uses of its leaves, by number."""
        return read_leaf_uses(self.flow)

    @cached_property
    def device_times(self) -> dict[Region, DeviceTime]:
        """Device times of its regions."""
        return compute_device_times(self.contents, self.history)

    @cached_property
    def device_ns(self) -> dict[int, float]:
        """Time that a device took for regions, by their number."""
        return {region.number: float(time.ns) for region, time in self.device_times.items()}

    @cached_property
    def compiled(self) -> dict[Region, str]:
        """Compiled functions that ran directly in each region, with the number of calls if it is not one."""
        calls: dict[Region, Counter[str]] = defaultdict(Counter)
        for mark in self.history.marks.of(COMPILED_CALL):
            if mark.region is not None:
                calls[mark.region][self.place(mark.site)[2] or "?"] += 1
        return {
            region: ", ".join(name if count == 1 else f"{name} ({count:,})" for name, count in counts.most_common())
            for region, counts in calls.items()
        }

    @cached_property
    def watched(self) -> frozenset[int]:
        """Threads whose operators were observed."""
        return frozenset(t.thread for t in self.history.timelines if t.is_watched and self.counts_operators)

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, machine, process, rank and level."""
        return dict(self.contents.meta.get("environment", {}))

    @property
    def pid(self) -> int:
        """Process id."""
        return int(self.environment.get("process", 0))

    @property
    def rank(self) -> int | None:
        """Rank in the distributed job; None outside of one."""
        rank = self.environment.get("rank")
        return None if rank is None else int(rank)

    @cached_property
    def counts_nodes(self) -> bool:
        """True if its level counts autograd nodes."""
        return self.environment.get("level") != "modes"

    @cached_property
    def counts_operators(self) -> bool:
        """True if its level observes operators."""
        return self.environment.get("level") == "ops"

    @cached_property
    def counts_saved(self) -> bool:
        """True if its PyTorch showed what nodes save for backward."""
        return self.contents.meta.get("reads_saved") is not False

    @property
    def saved_bytes(self) -> int | None:
        """Bytes that its operators saved for backward; None if they were not counted."""
        if not (self.counts_operators and self.counts_saved):
            return None
        return self.op_totals.saved_bytes

    def thread(self, number: int) -> str:
        """Return the name of a thread, with a number if an earlier one of this recording had the same."""
        return self._names.get(number, f"thread {number}")

    @cached_property
    def _names(self) -> dict[int, str]:
        uses: Counter[str] = Counter()
        names = {}
        for number, thread in sorted(self.contents.threads.items()):
            uses[thread.name] += 1
            names[number] = thread.name if uses[thread.name] == 1 else f"{thread.name} #{uses[thread.name]}"
        return names

    def place(self, site: int) -> tuple[str | None, int | None, str | None]:
        """Return file, line and function of a site; three times None if it is not known."""
        known = self.contents.sites.get(site)
        return (None, None, None) if known is None else (known.file, known.line, known.function)


def interpret_processes(
    contents: list[Contents], *, include_torch: bool, watch: ProgressIterator = iter
) -> list[Process]:
    """Interpret the processes of a recording, on one time axis that begins with the earliest of them."""
    begun = [int(c.meta.get("began_wall_ns", 0)) for c in contents]
    found: list[Process] = []
    first_region = 0
    for content, wall in zip(contents, begun, strict=True):
        history = interpret(content, include_torch=include_torch, watch=watch)
        found.append(Process(content, history, include_torch, wall - min(begun), first_region))
        first_region += len(history.regions)
    return found
