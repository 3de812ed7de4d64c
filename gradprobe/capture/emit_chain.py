"""The callable that hooks pass their events to: the cheapest chain of closures that serves all sinks.

Its stages stand here in their order, as two tables. A hook calls the outermost wrapper, and the source at the end of the
chain appends the event to the queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from gradprobe.capture.autograd.node_counter import find_node_counter
from gradprobe.capture.device.device_timer import DeviceTimer
from gradprobe.capture.modes.manager_hooks import Emit
from gradprobe.capture.modes.profiler_ranges import ProfilerRanges
from gradprobe.capture.ops.thread_registry import ThreadRegistry
from gradprobe.capture.sinks import Demand
from gradprobe.capture.writer_thread import BACKLOG
from gradprobe.recording.events import Event


class EmitChain:
    """The parts that a chain is built of."""

    def __init__(
        self,
        queue: deque[Event],
        demand: Demand,
        operators: ThreadRegistry,
        ranges: ProfilerRanges,
        wait: Callable[[], None],
    ) -> None:
        self.queue, self.demand, self.operators, self.ranges, self.wait = queue, demand, operators, ranges, wait
        self.devices: DeviceTimer | None = None
        self.nodes = find_node_counter()

    def build(self, devices: DeviceTimer | None) -> Emit:
        """Return the chain for the present demand and the present length of the queue."""
        self.devices, self.nodes = devices, find_node_counter()
        emit = next(stage.wrap(self, discard) for stage in SOURCES if stage.is_wanted(self))
        for stage in WRAPPERS:
            if stage.is_wanted(self):
                emit = stage.wrap(self, emit)
        return emit


class Stage(NamedTuple):
    """A closure of the chain: the condition for it, and the function that puts it around another."""

    is_wanted: Callable[[EmitChain], bool]
    wrap: Callable[[EmitChain, Emit], Emit]


def discard(event: Event) -> None:
    """Discard an event."""


def _append(chain: EmitChain, _: Emit) -> Emit:
    return chain.queue.append


def _append_with_nodes(chain: EmitChain, _: Emit) -> Emit:
    append, nodes = chain.queue.append, chain.nodes
    assert nodes is not None

    def emit(event: Event) -> None:
        append((*event, nodes()))

    return emit


def _append_after_operators(chain: EmitChain, inner: Emit) -> Emit:
    return chain.operators.make_gate(chain.queue.append) or _append_with_nodes(chain, inner)


def _mark_on_device(chain: EmitChain, inner: Emit) -> Emit:
    assert chain.devices is not None
    return chain.devices.around(inner)


def _name_ranges(chain: EmitChain, inner: Emit) -> Emit:
    return chain.ranges.around(inner)


def _wait_for_writer(chain: EmitChain, inner: Emit) -> Emit:
    queue, wait = chain.queue, chain.wait

    def emit(event: Event) -> None:
        inner(event)
        if len(queue) > BACKLOG:
            wait()

    return emit


SOURCES = (
    # A hook that is buried under another tool's patch is still called, and nothing empties the queue.
    Stage(lambda chain: chain.demand.is_idle, lambda _, inner: inner),
    # The pending operators of the thread come before the event that ends their sequence.
    Stage(lambda chain: chain.demand.counts_operators and chain.nodes is not None, _append_after_operators),
    Stage(lambda chain: chain.demand.counts_nodes and chain.nodes is not None, _append_with_nodes),
    Stage(lambda chain: True, _append),
)
"""The possible ends of the chain; the first one that is wanted is used."""
WRAPPERS = (
    # The marks of a block's edges lie inside the block, so its ends are marked before the event and its starts after.
    Stage(lambda chain: chain.devices is not None and chain.demand.times_devices, _mark_on_device),
    Stage(lambda chain: chain.demand.names_ranges, _name_ranges),
    Stage(lambda chain: len(chain.queue) > BACKLOG, _wait_for_writer),
)
"""The stages around the source from the innermost to the outermost; each one that is wanted is used."""
