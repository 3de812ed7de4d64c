"""Growth is told of lines that hold more and more, and of no others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gradprobe.analysis.graph_growth import LineMemory, measure_lines, select_comparable
from gradprobe.recording.graph_memory import AT_BACKWARD, BETWEEN, GraphLine, HeldMemory, MemorySample

LOSS = GraphLine("train.py", 9, "main", "aten.sum")


def sample(iteration: int, moment: str = AT_BACKWARD, size: int = 0, time_ns: int = 0) -> MemorySample:
    return MemorySample(time_ns or iteration, iteration, moment, "", {LOSS: HeldMemory(1, 1, size)} if size else {})


def measure(size_at: Callable[[int], int], moments: int = 60) -> LineMemory:
    (memory,) = measure_lines([sample(at, size=size_at(at)) for at in range(1, moments + 1)])
    return memory


def test_a_steady_rise_is_growth_with_its_rate() -> None:
    memory = measure(lambda at: 100 + 7 * at)
    assert memory.is_growing
    assert (memory.bytes_per_iteration, memory.nodes_per_iteration) == (7, 0)
    assert (memory.first.bytes, memory.last.bytes, memory.peak.bytes) == (107, 520, 520)


@pytest.mark.parametrize(
    "size_at",
    [
        lambda at: 100,
        lambda at: 100 if at < 20 else 5000,
        lambda at: 100 * (1 + at % 10),
        lambda at: 1000 - at,
        lambda at: 100 + 7 * (at if at < 55 else 0),
    ],
    ids=["constant", "a low start", "emptied now and then", "a fall", "emptied in the end"],
)
def test_nothing_else_is_growth(size_at: Callable[[int], int]) -> None:
    assert not measure(size_at).is_growing


def test_few_samples_show_no_growth() -> None:
    assert not measure(lambda at: at, moments=5).is_growing


def test_a_line_is_measured_from_its_first_sample_on() -> None:
    memory = measure(lambda at: max(0, at - 40))
    assert memory.is_growing
    assert (memory.first.bytes, memory.iterations) == (1, 19)


def test_without_iterations_growth_has_no_rate() -> None:
    (memory,) = measure_lines([sample(0, BETWEEN, size=at, time_ns=at) for at in range(1, 20)])
    assert memory.is_growing
    assert memory.bytes_per_iteration is memory.nodes_per_iteration is None


def test_other_moments_count_while_no_backward_runs() -> None:
    before, first = sample(0, BETWEEN), sample(1)
    within, after, end = sample(1, BETWEEN), sample(1, BETWEEN), sample(1, BETWEEN)
    assert select_comparable([before, first, within]) == [before, first]
    selected = select_comparable([before, first, within, after, end])
    assert len(selected) == 4
