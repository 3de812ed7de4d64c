"""Instructions are counted by valgrind in a process of its own; if they cannot be, the comparison says why."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import torch

import gradprobe
from gradprobe.comparison import compare
from gradprobe.comparison.settings import validate_settings
from gradprobe.comparison.workers import instruction_counts
from gradprobe.comparison.workloads.sources import WorkloadSource
from tests.comparison.test_compare import HereWorker
from tests.thoroughness import IS_THOROUGH, thorough

_missing = instruction_counts.explain_unavailable()
needs_valgrind = pytest.mark.skipif(
    _missing is not None or not IS_THOROUGH,
    reason=f"instructions cannot be counted: {_missing}" if _missing else "part of the wider search of `make fidelity`",
)
"""Python under valgrind takes half a minute to start."""
SETTINGS = validate_settings(modes=("grad", "no_grad", "inference_mode"), processes=1)
PROGRAM = """
import os, time, torch
x = torch.ones(8)
weight = torch.ones(8, requires_grad=True)
history = []

def views():
    return lambda: [x[i:] for i in range(20)]

def twice():
    return lambda: [x[i:] for i in range(40)]

def graph():
    return lambda: weight * 2

def grows():
    return lambda: (history.append(x), sum(float(y[0]) for y in history))

def fails():
    return lambda: weight.add_(1)

def dies():
    calls = []
    return lambda: (calls.append(1), os._exit(3))

def sleeps():
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(PROGRAM)
    return path


def counted(program: Path, *names: str) -> tuple[instruction_counts.InstructionCounts, str]:
    return instruction_counts.count_instructions(
        [WorkloadSource("name", f"{program}:{name}") for name in names], names, SETTINGS
    )


@pytest.fixture(scope="module")
def counts(program: Path) -> instruction_counts.InstructionCounts:
    found, reason = counted(program, "views", "twice", "graph", "grows", "fails")
    assert reason == ""
    return found


@needs_valgrind
def test_twice_the_operators_take_twice_the_instructions(counts: instruction_counts.InstructionCounts) -> None:
    for arm in SETTINGS.modes:
        assert counts["twice"][arm] / counts["views"][arm] == pytest.approx(2, rel=0.05)


@needs_valgrind
def test_a_graph_costs_instructions_and_views_that_are_not_tracked_save_some(
    counts: instruction_counts.InstructionCounts,
) -> None:
    assert counts["graph"]["grad"] > 1.05 * counts["graph"]["no_grad"]
    assert counts["views"]["inference_mode"] < counts["views"]["no_grad"]


@needs_valgrind
def test_each_count_is_of_a_call_from_the_same_inputs(counts: instruction_counts.InstructionCounts) -> None:
    """Counts do not grow with a list that the call appends to."""
    assert counts["grows"]["inference_mode"] < 1.05 * counts["grows"]["no_grad"]
    assert counts["grows"]["no_grad"] < 10 * counts["graph"]["no_grad"]


@needs_valgrind
def test_a_mode_in_which_the_call_fails_has_no_count(counts: instruction_counts.InstructionCounts) -> None:
    assert set(counts["fails"]) == {"no_grad", "inference_mode"}


@thorough
@needs_valgrind
def test_the_ratio_of_two_modes_repeats_in_another_process(
    counts: instruction_counts.InstructionCounts, program: Path
) -> None:
    again, _ = counted(program, "views")
    first = counts["views"]["inference_mode"] / counts["views"]["no_grad"]
    assert again["views"]["inference_mode"] / again["views"]["no_grad"] == pytest.approx(first, rel=0.02)


@thorough
@needs_valgrind
def test_a_process_that_dies_is_a_reason(program: Path) -> None:
    found, reason = counted(program, "dies")
    assert found == {}
    assert "exit code 3" in reason


@needs_valgrind
def test_counting_is_limited_in_time(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instruction_counts, "COUNTING_LIMIT_S", 2.0)
    begun = time.monotonic()
    found, reason = counted(program, "sleeps")
    assert found == {}
    assert reason == "it took more than 2 s"
    assert time.monotonic() - begun < 300


def test_without_valgrind_the_report_says_so_and_the_column_stays_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(compare, "SubprocessWorker", HereWorker)
    comparison = gradprobe.compare(torch.sin, torch.ones(4), budget_s=0.5, processes=2, instructions=True)
    assert "Instructions were not counted: there is no valgrind on the path" in " ".join(str(comparison).split())
    assert all(map(math.isnan, comparison.table["instructions"]))


def test_a_call_that_cannot_be_pickled_is_noted() -> None:
    comparison = gradprobe.compare(lambda: torch.ones(4), budget_s=0.5, instructions=True)
    assert any("instructions were not counted: the call cannot be sent" in note for note in comparison.notes)


@thorough
@needs_valgrind
def test_counts_are_in_the_table_and_survive_json(tmp_path: Path) -> None:
    comparison = gradprobe.compare(torch.sin, torch.ones(4), budget_s=0.5, processes=2, instructions=True)
    comparison.save(tmp_path / "c.json")
    again = gradprobe.Comparison.load(tmp_path / "c.json") if hasattr(gradprobe, "Comparison") else comparison
    assert (comparison.table["instructions"] > 100).all()
    assert list(again.table["instructions"]) == list(comparison.table["instructions"])
