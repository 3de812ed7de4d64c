"""The table of the memory of graphs has the bytes that a walk over the same graphs finds, and says what grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import gradprobe
from gradprobe.capture.time_share import TimeShare
from tests.report.reading import Page

ITERATIONS = 100
TITLE = "Memory of graphs over time"


@pytest.fixture(autouse=True)
def _time_for_each_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no look be left out for lack of time, as on a busy machine."""
    monkeypatch.setattr(TimeShare, "is_left", lambda share: True)


def sum_saved_bytes(tensors: list[torch.Tensor]) -> int:
    """Return the size of the storages that the nodes behind ``tensors`` have saved, without those of leaves."""
    nodes: set[Any] = set()
    waiting: list[Any] = [tensor.grad_fn for tensor in tensors]
    storages: dict[int, int] = {}
    leaves: set[int] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in nodes:
            continue
        nodes.add(node)
        waiting += [following for following, _ in node.next_functions]
        if hasattr(node, "variable"):
            leaves.add(node.variable.untyped_storage().data_ptr())
            continue
        for name in dir(node):
            saved = getattr(node, name) if name.startswith("_saved_") else None
            if isinstance(saved, torch.Tensor):
                storages[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
    return sum(size for address, size in storages.items() if address not in leaves)


def train(keep: bool, path: Path | None = None) -> tuple[gradprobe.Recording, list[int]]:
    """Record a training with graphs that are kept or not; return also the bytes of all graphs as each backward began."""
    weight = torch.ones(100, requires_grad=True)
    losses: list[torch.Tensor] = []
    expected: list[int] = []
    with (
        pytest.MonkeyPatch.context() as patch,
        gradprobe.record(path, level="ops") as recording,
        gradprobe.phase("train"),
    ):
        patch.setattr(TimeShare, "is_left", lambda share: True)  # on a busy machine, looks take their time's share soon
        for _ in range(ITERATIONS):
            loss = (weight * torch.ones(100)).exp().sum()
            with torch.no_grad():
                expected.append(sum_saved_bytes([*losses, loss]))
            loss.backward(retain_graph=keep)
            if keep:
                losses.append(loss)
    return recording, expected


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> tuple[gradprobe.Recording, list[int]]:
    path = tmp_path_factory.mktemp("memory") / "r.gradprobe"
    _, expected = train(True, path)
    return gradprobe.load(path), expected


@pytest.fixture(scope="module")
def steady() -> tuple[gradprobe.Recording, list[int]]:
    return train(False)


@pytest.mark.parametrize("name", ["growing", "steady"])
def test_the_bytes_are_those_of_a_walk_over_the_graphs(name: str, request: pytest.FixtureRequest) -> None:
    recording, expected = request.getfixturevalue(name)
    at_backward = recording.graph_memory.query("moment == 'backward'")
    found = at_backward.groupby("iteration")["bytes"].sum().to_dict()
    assert list(found)[:32] == list(range(1, 33))
    assert 32 < len(found) < ITERATIONS
    assert found == {iteration: expected[iteration - 1] for iteration in found}
    assert set(at_backward["phase"]) == {"train"}
    assert recording.graph_memory["time_ns"].is_monotonic_increasing


def test_the_tensors_and_nodes_are_those_that_are_alive(growing: tuple[gradprobe.Recording, list[int]]) -> None:
    rows = growing[0].graph_memory.query("moment == 'backward'")
    assert (rows["tensors"] == rows["iteration"]).all()
    assert (rows["nodes"] == 3 * rows["iteration"]).all()
    assert set(rows["op"]) == {"aten.sum"}
    assert set(rows["function"]) == {"train"}


def test_the_line_that_grows_is_named_with_its_rate(growing: tuple[gradprobe.Recording, list[int]]) -> None:
    recording, _ = growing
    line = recording.graph_memory["line"].iloc[0]
    for text in (str(recording), recording.to_markdown() or ""):
        words = " ".join(text.replace("`", "").split())
        assert f":{line} (aten.sum): what its results hold grows by 800 B in 3 nodes per iteration" in words
    row = Page(recording.to_html() or "").tables[TITLE][0]
    assert row["bytes per iteration"][1] == 800


def test_a_program_that_keeps_nothing_does_not_grow(steady: tuple[gradprobe.Recording, list[int]]) -> None:
    recording, _ = steady
    text = str(recording)
    assert "grows by" not in text
    assert TITLE not in text.partition("Blind spots")[0]
    assert "The graphs of no line grow steadily." in (recording.to_markdown() or "")


def test_a_recording_without_graphs_has_no_memory() -> None:
    with gradprobe.record(level="ops") as recording, torch.inference_mode():
        torch.ones(3) * 2
    assert recording.graph_memory.empty
    assert TITLE not in (recording.to_markdown() or "")


def test_evaluation_that_keeps_graphs_grows_without_iterations() -> None:
    weight = torch.ones(100, requires_grad=True)
    with gradprobe.record(level="ops") as recording:
        outputs = [weight.exp() for _ in range(300)]
    memory = recording.graph_memory
    assert set(memory["moment"]) == {"between"}
    assert memory["bytes"].iloc[-1] == len(outputs) * 400
    assert "what its results hold grows from" in " ".join(str(recording).split())
