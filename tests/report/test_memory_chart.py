"""The chart of the memory of graphs marks phases and iterations, and stacks one area per line."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from gradprobe.report.charts import build_specification, can_draw
from gradprobe.report.document import Chart
from gradprobe.report.memory_chart import list_marks


def rows(phases: str) -> list[dict[str, Any]]:
    """Return two lines at a moment for each letter, which is its phase."""
    return [
        {"time": at, "line": line, "bytes": 8 * at, "shown": "", "nodes": at, "iteration": at, "phase": phase.strip()}
        for at, phase in enumerate(phases, 1)
        for line in ("a.py:1", "a.py:2")
    ]


def test_phases_are_marked_first_and_iterations_where_there_is_room() -> None:
    marks = list_marks(rows("t" * 30 + " " * 10 + "e" * 20))
    labels = {mark["label"]: (mark["time"], mark["align"]) for mark in marks}
    assert labels["t"] == (1, "left")
    assert labels["e"] == (41, "left")
    assert [label for label in labels if label.startswith("iteration")]
    times = [mark["time"] for mark in marks]
    assert all(later - earlier >= 59 / 6 for earlier, later in itertools.pairwise(times))
    assert marks[-1]["align"] == "right"
    assert list_marks([]) == []


@pytest.mark.skipif(not can_draw(), reason="Altair or vl-convert is not installed")
def test_the_areas_have_every_line_at_every_moment() -> None:
    chart = Chart("graph-memory", "memory", "Memory", rows("tttt"), "ms")
    areas, *_ = build_specification(chart)["layer"]
    assert areas["mark"]["type"] == "area"
    assert areas["encoding"]["y"]["stack"] == "zero"
    assert [row["line"] for row in areas["data"]["values"]] == ["a.py:1", "a.py:2"] * 4
