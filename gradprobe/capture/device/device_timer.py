"""Device time of blocks: a timing event in the current stream at each edge, read at the end.

Nothing waits for the device before that. While a stream is captured nothing is recorded, since an event would become part
of the graph. The device's clock is tied to the processor's at the end, when an event in an idle stream passes at once.
"""

from __future__ import annotations

from _thread import get_ident
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from gradprobe.capture.device.accelerator import Accelerator
from gradprobe.capture.device.accelerator import DeviceEvent as DeviceEvent
from gradprobe.recording.events import ACTION_MASK, DEVICE, ENTER, EXIT, MANAGERS, NOT_READ, OP_ROWS, Event

_MAX_MARKS = 100_000
"""Maximum number of marks between two reads; the driver keeps an event for each."""
_UNREAD = (NOT_READ,) * 4
_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class _Mark:
    key: int
    device: int
    stream: int
    event: DeviceEvent
    allocated: int
    peak: int


class DeviceTimer:
    """The marks of all threads that have not been read yet."""

    def __init__(
        self,
        accelerator: Accelerator,
        now: Callable[[], int],
        append: Callable[[Event], object],
        label: Callable[[], str | None],
        fault: Callable[[Exception], None],
    ) -> None:
        self._accelerator, self._now, self._append = accelerator, now, append
        self._label, self._fault = label, fault
        self._pool: dict[int, list[DeviceEvent]] = defaultdict(list)
        self._marks: list[_Mark] = []
        self._next = 1
        self.captured = self.beyond = 0
        """Numbers of edges without a mark: in a stream that was being captured, and beyond the limit."""

    def around(self, emit: Callable[[Event], object]) -> Callable[[Event], object]:
        """Return an ``emit`` that also marks the edges of blocks in the current stream."""

        def with_mark(event: Event) -> None:
            op = event[0]
            is_edge = op & ~ACTION_MASK in MANAGERS
            # Inside the block at both edges: a mark belongs to the block that is open at its place in the queue.
            if is_edge and op & ACTION_MASK == EXIT:
                self._mark(EXIT)
            emit(event)
            if is_edge and op & ACTION_MASK == ENTER:
                self._mark(ENTER)

        return with_mark

    def _mark(self, kind: int) -> None:
        accelerator = self._accelerator
        try:
            if not accelerator.is_in_use():
                return
            if accelerator.is_capturing():
                self.captured += 1
                return
            if len(self._marks) >= _MAX_MARKS:
                self.beyond += 1
                return
            device, stream = accelerator.where()
            pool = self._pool[device]
            event = pool.pop() if pool else accelerator.event(device)
            event.record()
            key, self._next = self._next, self._next + 1
            self._marks.append(_Mark(key, device, stream, event, *accelerator.memory(device)))
            self._append((DEVICE | kind, self._now(), get_ident(), None, 0, *_UNREAD, key, self._label()))
        except Exception as error:
            self._fault(error)

    def read(self) -> None:
        """Wait for the device to pass all marks, and append their times. Fails while a stream is captured."""
        marks, self._marks = self._marks, []
        if not marks:
            return
        by_device: dict[int, list[_Mark]] = defaultdict(list)
        for mark in marks:
            by_device[mark.device].append(mark)
        for device, found in by_device.items():
            try:
                rows = self._rows(device, found)
            except Exception as error:
                self._fault(error)
            else:
                self._append((OP_ROWS, "devices", None, rows))

    def _rows(self, device: int, marks: list[_Mark]) -> list[tuple[int, ...]]:
        if self._accelerator.is_capturing():
            raise RuntimeError("cannot read device times: the recording ended while a stream was being captured")
        for last in {mark.stream: mark for mark in marks}.values():
            last.event.synchronize()
        anchor = self._accelerator.event(device)
        anchor.record()
        anchor.synchronize()
        anchored = self._now()
        # From one mark to the next: over minutes, a single-precision difference would be off by more than a block.
        passed, elapsed = 0.0, [0.0]
        for one, following in pairwise(marks):
            passed += one.event.elapsed_time(following.event) * _MS
            elapsed.append(passed)
        origin = anchored - passed - marks[-1].event.elapsed_time(anchor) * _MS
        self._pool[device] += [mark.event for mark in marks]
        return [
            (mark.key, mark.device, mark.stream, round(origin + since), mark.allocated, mark.peak)
            for mark, since in zip(marks, elapsed, strict=True)
        ]

    def describe_missing_times(self) -> list[tuple[str, int]]:
        """Describe the block edges without device time since the last call, with their numbers."""
        captured, beyond = self.captured, self.beyond
        self.captured = self.beyond = 0
        found: list[tuple[str, int]] = []
        if captured:
            found.append(("block edges in streams that were being captured have no device time", captured))
        if beyond:
            found.append((f"block edges beyond the first {_MAX_MARKS:,} have no device time", beyond))
        return found
