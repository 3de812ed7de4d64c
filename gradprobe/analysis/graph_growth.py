"""Growth of the memory of autograd graphs: which lines hold more and more of it over a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gradprobe.recording.graph_memory import AT_BACKWARD, NOTHING, GraphLine, HeldMemory, MemorySample

MIN_SAMPLES = 6
"""Minimum number of samples from which growth is told."""


@dataclass(frozen=True)
class LineMemory:
    """The memory of the graphs of one line, from the first sample on that has it: at first, at last and at most."""

    line: GraphLine
    length_ns: int
    first: HeldMemory
    last: HeldMemory
    peak: HeldMemory
    iterations: int
    """Number of iterations from that sample to the last one."""
    is_growing: bool

    @property
    def bytes_per_iteration(self) -> float | None:
        """Bytes by which it changed in each iteration; None if no iteration ended."""
        return (self.last.bytes - self.first.bytes) / self.iterations if self.iterations else None

    @property
    def nodes_per_iteration(self) -> float | None:
        """Nodes by which it changed in each iteration; None if no iteration ended."""
        return (self.last.nodes - self.first.nodes) / self.iterations if self.iterations else None


def select_comparable(samples: Sequence[MemorySample]) -> list[MemorySample]:
    """Return the samples that can be compared with each other.

    Within an iteration memory rises and falls, so that only those at the beginning of a backward pass count, and others
    while none runs.
    """
    selected = []
    iteration = 0
    for sample in samples:
        if sample.moment == AT_BACKWARD:
            selected.append(sample)
            continue
        if sample.iteration == iteration:
            selected.append(sample)
        iteration = sample.iteration
    return selected


def measure_lines(samples: Sequence[MemorySample]) -> list[LineMemory]:
    """Return the memory of each line over comparable samples: those that grow first, then those with the most bytes."""
    lines = dict.fromkeys(line for sample in samples for line in sample.held)
    found = [_measure_line(line, samples) for line in lines]
    return sorted(found, key=lambda memory: (not memory.is_growing, -memory.peak.bytes, -memory.peak.nodes))


def _measure_line(line: GraphLine, samples: Sequence[MemorySample]) -> LineMemory:
    """Measure a line from the first sample on that has it."""
    samples = samples[next(at for at, sample in enumerate(samples) if line in sample.held) :]
    held = [sample.held.get(line, NOTHING) for sample in samples]
    iterations = samples[-1].iteration - samples[0].iteration
    moments = [sample.iteration if iterations else sample.time_ns for sample in samples]
    is_growing = any(_rises(moments, [*map(quantity, held)]) for quantity in _QUANTITIES)
    peak = max(held, key=lambda memory: (memory.bytes, memory.nodes))
    return LineMemory(line, samples[-1].time_ns - samples[0].time_ns, held[0], held[-1], peak, iterations, is_growing)


_QUANTITIES: tuple[Callable[[HeldMemory], int], ...] = (lambda memory: memory.bytes, lambda memory: memory.nodes)


def _rises(moments: Sequence[int], values: Sequence[int]) -> bool:
    """Return whether all values in each third of a run are above all in the third before: what only starts low is not."""
    if len(values) < MIN_SAMPLES:
        return False
    begin, length = moments[0], moments[-1] - moments[0]
    thirds: list[list[int]] = [[], [], []]
    for moment, value in zip(moments, values, strict=True):
        thirds[min(3 * (moment - begin) // max(length, 1), 2)].append(value)
    first, middle, last = thirds
    return bool(first and middle and last) and max(first) < min(middle) and max(middle) < min(last)
