"""Operator counts and creation sites, on disk and in reports."""

from __future__ import annotations

import _thread
import asyncio
import json
import sqlite3
import threading
from pathlib import Path

import pytest
import torch

import gradprobe
from gradprobe.capture.ops.native.loader import load_core
from gradprobe.errors import RecordingError
from tests.capabilities import HAS_QUALIFIED_NAMES, needs_saved


def program() -> None:
    layer = torch.nn.Linear(4, 4)
    x = torch.ones(2, 4)
    with torch.enable_grad():
        layer(x).sum().backward()
    with torch.no_grad():
        layer.weight.add_(1)  # the third bump: the weights were initialised in place
    with torch.inference_mode():
        layer(x)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.gradprobe"
    with gradprobe.record(path, level="ops"):
        program()
    return path


def test_loaded_saved_and_merged_recordings_agree(file: Path, tmp_path: Path) -> None:
    """A recording of operators is the same loaded, saved and merged."""
    loaded = gradprobe.load(file)
    assert len(loaded.ops) > 5
    loaded.save(tmp_path / "copy.gradprobe")
    copy = gradprobe.load(tmp_path / "copy.gradprobe")
    assert copy.ops.equals(loaded.ops)
    assert copy.regions.equals(loaded.regions)
    with gradprobe.record(tmp_path / "other.gradprobe", level="ops"):
        program()
    both = gradprobe.merge([file, tmp_path / "other.gradprobe"])
    assert both.ops["count"].sum() == 2 * loaded.ops["count"].sum()
    assert both.ops["region"].max() > loaded.ops["region"].max()


def test_one_recording_is_not_merged_with_itself(file: Path, tmp_path: Path) -> None:
    gradprobe.load(file).save(tmp_path / "copy.gradprobe")
    for twice in ([file, file], [file, tmp_path / "copy.gradprobe"]):
        with pytest.raises(gradprobe.GradprobeError, match="the same recording"):
            gradprobe.merge(twice)


def test_json_report_of_operators(file: Path) -> None:
    """The JSON report has the operators and their sums."""
    recording = gradprobe.load(file)
    report = json.loads(recording.to_json())
    assert len(report["ops"]) == len(recording.ops)
    assert report["summary"]["operators"]["version_bumps"] == recording.ops["version_bumps"].sum() == 3
    assert {row["op"] for row in report["ops"]} >= {"aten.linear", "aten.add_.Tensor"}


def test_a_file_of_schema_1_is_read(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        for table in ("operations", "accounts", "op_folds"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("ALTER TABLE folds DROP COLUMN hidden_ns")
        connection.execute("ALTER TABLE folds DROP COLUMN hidden_nodes")
        (site,) = connection.execute("SELECT min(id) FROM sites WHERE internal = 0").fetchone()
        connection.execute("INSERT INTO folds VALUES (4, ?, 1, 1, '', 3, 30, 20, 6, 5, '{\"3\": 3}')", (site,))
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    old = gradprobe.load(file)
    assert len(old.transitions) == 6
    assert old.ops.empty
    assert old.sites["count"].sum() == 6


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE accounts SET data = x'00'",
        "UPDATE accounts SET count = count + 1",
        "UPDATE accounts SET kind = 'other'",
        "UPDATE operations SET phase = 'x'",
        "DROP TABLE operations",
        "INSERT INTO op_folds VALUES (1, 1, 1, 'no list')",
        "INSERT INTO op_folds VALUES (1, 1, 1, '[1]')",
        "UPDATE operations SET phase = 7",
    ],
)
def test_damaged_rows_refused(file: Path, damage: str) -> None:
    """Damaged operator rows are refused in one line."""
    with sqlite3.connect(file) as connection:
        connection.execute(damage)
    connection.close()
    with pytest.raises(RecordingError, match="damaged"):
        print(gradprobe.load(file))


def test_earlier_threads_missing_not_zero() -> None:
    """Operators of threads that ran before are missing, not zero, and the report names the threads."""
    begin, end = threading.Event(), threading.Event()

    def work() -> None:
        begin.wait()
        with torch.no_grad():
            torch.ones(2).add_(1)
        end.set()

    thread = threading.Thread(target=work, name="older")
    thread.start()
    with gradprobe.record(level="ops") as recording:
        begin.set()
        end.wait()
        with torch.no_grad():
            torch.ones(2).add_(1)
    thread.join()
    bumps = recording.regions.set_index("thread")["version_bumps"]
    assert bumps["MainThread"] == 1
    assert bumps.isna()["older"]
    found = next(
        line for line in " ".join(str(recording).split()).split("* ") if "their operators were not observed" in line
    )
    assert "older" in found


def test_operators_belong_to_running_thread() -> None:
    """A thread that takes the observer's key along, as those of autograd's engine do, has operators of its own."""
    with gradprobe.record(level="ops") as recording:
        done = threading.Event()

        def work() -> None:
            load_core().include_key(True)
            torch.ones(1)
            load_core().include_key(False)
            done.set()

        torch.zeros(1)
        _thread.start_new_thread(work, ())
        done.wait()
    ops = recording.ops.set_index("op")["thread"]
    assert ops["aten.zeros"] == "MainThread"
    assert ops["aten.ones"] != "MainThread"


def test_escaped_inference_tensor_located() -> None:
    """Inference tensors that escape their mode are traced to their line and their holder."""

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(2, 2)
            self.cache: dict[str, torch.Tensor] = {}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.cache["rotary"] = torch.outer(x[0], x[0])
            return self.inner(x)

    model = Model()
    with gradprobe.record(level="ops") as recording, torch.inference_mode():
        model(torch.ones(1, 2))
        lost = torch.ones(3)
        del lost
    births = recording.births.set_index("op")
    assert births.loc["aten.outer", "held_by"] == "Model.cache['rotary']"
    assert births.loc["aten.outer", "alive"] == 1
    assert births.loc["aten.outer", "function"].endswith("Model.forward" if HAS_QUALIFIED_NAMES else "forward")
    assert births.loc["aten.outer", "region"] == recording.regions["region"].iloc[0]
    assert "aten.ones" not in births.index[births["alive"] > 0]
    seen = gradprobe.inspect(model.cache["rotary"])
    assert seen.born is not None
    assert seen.born.op == "aten.outer"
    assert "test_op_accounts.py" in str(seen)


def test_failed_version_reads_located() -> None:
    """Failed reads of the version are counted where they happen."""
    with torch.inference_mode():
        tensor = torch.ones(1)
    with gradprobe.record(level="ops") as recording:
        for _ in range(3):
            with pytest.raises(RuntimeError, match="version counter"):
                tensor._version
    row = recording.ops.set_index("op").loc["Tensor._version"]
    assert row["failed_version_reads"] == 3
    assert row["file"].endswith("test_op_accounts.py")


def test_below_level_ops() -> None:
    """Below level ops the operators are missing and the backward is known."""
    with gradprobe.record(level="graph") as recording:
        program()
        with torch.enable_grad():
            torch.ones(1, requires_grad=True) * 2  # built for nothing
    assert recording.ops.empty
    assert recording.regions["version_bumps"].isna().all()
    assert recording.regions["saved_bytes"].isna().all()
    used, _, _, dropped = recording.regions["backward_nodes"]
    assert used == recording.regions["nodes"].iloc[0] == 3
    assert (dropped, recording.regions["nodes"].iloc[3]) == (0, 1)
    assert "no backward reached 1" in str(recording)


@needs_saved
def test_effects_of_probed_call() -> None:
    """A probed call reports its version bumps and the graph behind its result."""
    layer = torch.nn.Linear(3, 1)
    layer.register_buffer("steps", torch.zeros(()))

    @gradprobe.probe
    def step(x: torch.Tensor) -> torch.Tensor:
        loss = layer(x).square().sum()
        with torch.no_grad():
            layer.weight.add_(1)
            layer.get_buffer("steps").add_(1).add_(1)
            x.view(-1).mul_(2)
        return loss

    step(torch.ones(2, 3))
    call = step.recording.calls.iloc[0]
    bumps = call[["parameter_bumps", "buffer_bumps", "argument_bumps", "result_bumps"]].tolist()
    assert bumps == [1, 2, 1, 0]
    assert call["returned_nodes"] == call["nodes"] == 4
    # The product's result, which only the graph holds; its square is the loss's way back. The input is the caller's.
    assert 0 < call["returned_graph_bytes"] < call["returned_saved_bytes"]
    assert "step returned a result that keeps 4 nodes" in " ".join(str(step.recording).split())


def taking_turns() -> None:
    """Two tasks whose blocks overlap: the one constructs 3 nodes in its block, the other 5."""
    weight = torch.ones(2, requires_grad=True)

    async def work(nodes: int) -> None:
        with torch.enable_grad():
            for _ in range(nodes):
                weight * 2
                await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(work(3), work(5))

    asyncio.run(both())


def test_nodes_of_overlapping_tasks() -> None:
    """Nodes of blocks that tasks hold open at once belong to one task each, or are missing."""
    with gradprobe.record(level="ops") as recording:
        taking_turns()
    assert sorted(recording.regions["nodes"]) == sorted(recording.regions["self_nodes"]) == [3, 5]
    assert list(recording.sites["nodes"]) == [8]
    assert set(recording.regions["irregular"]) == {"held while other tasks ran"}
    with gradprobe.record() as recording:
        taking_turns()
    assert recording.regions["nodes"].isna().all()
    assert recording.sites["nodes"].isna().all()


def test_nodes_of_separate_tasks() -> None:
    """Blocks of tasks that do not overlap keep their nodes."""
    weight = torch.ones(2, requires_grad=True)

    async def work() -> None:
        for _ in range(3):
            with torch.enable_grad():
                weight * 2
            await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(work(), work())

    with gradprobe.record() as recording:
        asyncio.run(both())
    assert list(recording.regions["nodes"]) == [1] * 6
    assert not any(recording.regions["irregular"])


@needs_saved
def test_input_from_outside_block() -> None:
    """Inputs created outside of blocks are not kept alive by the graph alone."""
    with gradprobe.record(level="ops") as recording:
        weight = torch.ones(250, requires_grad=True)
        x = torch.ones(250)
        y = (x * weight).exp()
    assert y.requires_grad
    node = recording.ops.set_index("node")
    assert tuple(node.loc["MulBackward0", ["saved_bytes", "graph_bytes"]]) == (1000, 0)
    assert tuple(node.loc["ExpBackward0", ["saved_bytes", "graph_bytes"]]) == (1000, 1000)


@needs_saved
def test_saved_bytes_of_distinct_storages(tmp_path: Path) -> None:
    """The total of saved bytes counts distinct storages, however blocks are shown."""

    def step() -> None:
        weight = torch.ones(250, requires_grad=True)
        optimizer = torch.optim.SGD([weight])
        for _ in range(2):
            with torch.enable_grad():
                (weight * weight).sum().backward()
            optimizer.step()

    with gradprobe.record(tmp_path / "run.gradprobe", level="ops"):
        step()
    file = tmp_path / "run.gradprobe"
    hidden, shown = (str(gradprobe.load(file, include_torch=torch_shown)) for torch_shown in (False, True))
    for report in (hidden, shown):
        assert "1000 B saved for backward (0 B of it by the graph alone)" in report


def test_time_under_optimizer_modes() -> None:
    """Time under modes that an optimizer set is shown separately."""
    weight = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.SGD([weight])
    weight.sum().backward()
    with gradprobe.record() as recording:
        optimizer.step()
    summary = json.loads(recording.to_json())["summary"]
    under_no_grad = next(mode["ns"] for mode in summary["time_by_mode"] if mode["mode"] == "no_grad")
    assert 0 < under_no_grad <= summary["hidden_ns"]


def test_creation_sites_grouped_by_line() -> None:
    """Tensors created at one place in many blocks are one line of the report."""
    kept = []
    with gradprobe.record(level="ops") as recording:
        for _ in range(12):
            with torch.inference_mode():
                kept.append(torch.ones(3))
    report = recording.to_markdown()
    section = report[report.index("Escaped inference tensors") :]
    assert section.count("aten.ones") == 1
    assert "144 B" in section
