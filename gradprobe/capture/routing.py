"""The way of events from the queue to the sinks.

Tuples become blocks of numbers, and each block is delivered to the sinks that were open at that point of the queue.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter

from gradprobe.capture.pipeline.queue_encoder import QueueEncoder
from gradprobe.capture.sinks import Sink
from gradprobe.recording.events import ACTION_MASK, CALL, ENTER, EXIT, NOT_READ, WRITER_MARK, Event, EventBlock

CALL_BITS = 40
"""Number of low bits in the key of a probed call that count the calls; the bits above number the sink."""
_CHUNK = 4_096  # as many tuples as stay in the processor's cache while their columns are read
_OP = itemgetter(0)


class Router:
    """The sinks in the order of the queue: a sink is open between its two marks there."""

    def __init__(
        self,
        queue: deque[Event],
        encoder: QueueEncoder,
        fault: Callable[[Exception], None],
    ) -> None:
        self._queue, self._encoder, self._fault = queue, encoder, fault
        self._open: list[Sink] = []
        self._registered = 0
        self._call_sinks: weakref.WeakValueDictionary[int, Sink] = weakref.WeakValueDictionary()
        self._calling: dict[int, list[Sink]] = {}

    def open(self, sink: Sink) -> None:
        """Let ``sink`` receive the events that are queued from here on."""
        self._queue.append(_mark(WRITER_MARK | ENTER, sink))

    def close(self, sink: Sink) -> None:
        """End the events of ``sink`` at this point of the queue."""
        self._queue.append(_mark(WRITER_MARK | EXIT, sink))

    def register(self, sink: Sink) -> int:
        """Return a number for a sink of probed calls only. It is forgotten with the sink."""
        self._registered += 1
        self._call_sinks[self._registered] = sink
        return self._registered

    @property
    def call_sinks(self) -> list[Sink]:
        """The registered sinks that still exist."""
        return list(self._call_sinks.values())

    @property
    def keeps_events(self) -> bool:
        """Return whether a sink may still refer to threads and names by their numbers."""
        return bool(self._call_sinks) or any(sink.keeps_events for sink in self._open)

    def abandon(self) -> None:
        """Forget all sinks and all events, in a forked child."""
        self._queue.clear()
        self._call_sinks.clear()
        self._open.clear()
        self._calling.clear()

    def empty_queue(self, *, close_tallies: bool = False) -> None:
        """Deliver the events that are in the queue; ``close_tallies`` adds the operators since the last event."""
        pop = self._queue.popleft
        blocks: list[EventBlock] = []
        # Events that arrive during this round wait for the next one, or this one might never end.
        left = len(self._queue)
        while left:
            events = [pop() for _ in range(min(left, _CHUNK))]
            left -= len(events)
            try:
                self._route(events, blocks)
            except Exception as error:
                self._fault(error)
        if close_tallies:
            blocks += self._encoder.encode([], close_tallies=True)
        self._deliver(blocks)

    def _route(self, events: list[Event], blocks: list[EventBlock]) -> None:
        """Add ``events`` to ``blocks``; at a mark, deliver the blocks to the sinks that were open up to there."""
        start = 0
        for index, event in enumerate(events) if max(map(_OP, events)) >= WRITER_MARK else ():
            if event[0] >= WRITER_MARK:
                blocks += self._encoder.encode(events[start:index], close_tallies=True)
                start = index + 1
                self._deliver(blocks)
                self._apply_mark(event[0], event[10])
        blocks += self._encoder.encode(events[start:] if start else events, close_tallies=False)

    def _apply_mark(self, op: int, sink: Sink) -> None:
        if op == WRITER_MARK | ENTER:
            self._open.append(sink)
        elif sink in self._open:
            self._open.remove(sink)

    def _deliver(self, blocks: list[EventBlock]) -> None:
        if not blocks:
            return
        block = EventBlock.joined(blocks)
        blocks.clear()
        for sink in self._open:
            sink.accept(block)
        if self._call_sinks or self._calling:
            self._deliver_calls(block)

    def _deliver_calls(self, block: EventBlock) -> None:
        picked: dict[Sink, list[int]] = {}
        columns = (block.op.tolist(), block.thread.tolist(), block.key.tolist())
        for index, (op, thread, key) in enumerate(zip(*columns, strict=True)):
            sink = self._call_sinks.get(key >> CALL_BITS) if op & ~ACTION_MASK == CALL else None
            calling = self._calling.setdefault(thread, [])
            if sink is not None and op == CALL | ENTER:
                calling.append(sink)
            for taker in set(calling):
                picked.setdefault(taker, []).append(index)
            if sink in calling and op != CALL | ENTER:
                calling.remove(sink)
            if not calling:
                del self._calling[thread]
        for sink, indices in picked.items():
            sink.accept(block.select(indices))
        self._deliver_returned(block)

    def _deliver_returned(self, block: EventBlock) -> None:
        """Deliver the rows of probed calls by their sink's number.

        They may arrive in another block than the event at the end of the call.
        """
        for number, sink in self._call_sinks.items() if "returns" in block.accounts else ():
            rows = block.accounts["returns"]
            own = rows[rows["key"] >> CALL_BITS == number]
            if len(own):
                sink.accept(replace(EventBlock.of([]), accounts={"returns": own}))


def _mark(op: int, sink: Sink) -> Event:
    return (op, 0, 0, None, 0, NOT_READ, NOT_READ, NOT_READ, NOT_READ, 0, sink)
