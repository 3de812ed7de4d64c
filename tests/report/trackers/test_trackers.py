"""``recording.log_to`` with each experiment tracker as it is installed, offline and in a folder of the test."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import gradprobe
from gradprobe.errors import GradprobeError, InvalidArgument
from gradprobe.report.trackers.tracked_report import build_report
from tests.report import samples


@pytest.fixture(scope="module")
def recording() -> gradprobe.Recording:
    weight = torch.ones(2, requires_grad=True)
    with gradprobe.record(level="ops") as recording:
        (weight * 2).sum().backward()
        with torch.inference_mode(), torch.enable_grad():
            weight * 2
    return recording


def test_scalars_are_those_of_the_recording_and_what_was_not_measured_is_missing() -> None:
    report = build_report(samples.tables(), prefix="fit", step=3)
    assert report.scalars == {
        "fit/nodes": 4,
        "fit/time_share/grad": 0.5,
        "fit/time_share/no_grad": 0.25,
        "fit/time_share/inference_mode": 0.25,
        "fit/time_share/inference_mode_and_enable_grad": 0.0,
        "fit/findings/error": 0,
        "fit/findings/warning": 0,
        "fit/findings/note": 0,
    }
    with gradprobe.record(level="modes") as bare:
        pass
    assert {"g/nodes", "g/saved_bytes"}.isdisjoint(build_report(bare._tables, prefix="g", step=None).scalars)


def test_saved_bytes_are_those_that_operators_saved() -> None:
    weight = torch.ones(5, requires_grad=True)
    with gradprobe.record(level="ops") as recording:
        kept = weight.exp()
    assert build_report(recording._tables, prefix="g", step=None).scalars["g/saved_bytes"] == 5 * 4
    del kept


@pytest.mark.parametrize("package", ["torch.utils.tensorboard", "tensorboardX"])
def test_tensorboard_gets_scalars_a_table_and_a_page_beside_its_events(
    package: str, recording: gradprobe.Recording, tmp_path: Path
) -> None:
    module = "tensorboard.backend.event_processing.event_accumulator"
    accumulator = pytest.importorskip(module, reason="needs tensorboard")
    writers = pytest.importorskip(package, reason=f"needs {package}")
    with writers.SummaryWriter(str(tmp_path / "run")) as writer:
        for step in (1, 2):
            recording.log_to(writer, step=step)
    events = accumulator.EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("gradprobe/nodes")] == [(1, 2.0), (2, 2.0)]
    assert [one.value for one in events.Scalars("gradprobe/findings/warning")] == [1.0, 1.0]
    text = events.Tensors("gradprobe/findings/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "| GP103 | warning |" in text
    page = tmp_path / "run" / "gradprobe.html"
    assert f"`{page}`" in text
    assert "GP103" in page.read_text(encoding="utf-8")


@pytest.fixture
def offline_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return pytest.importorskip("wandb", reason="needs wandb")


def test_weights_and_biases_get_scalars_a_table_and_an_artifact(
    recording: gradprobe.Recording, tmp_path: Path, offline_wandb: Any
) -> None:
    with offline_wandb.init(project="tests", dir=tmp_path) as run:
        recording.log_to(run, step=4, prefix="fit")
        recording.log_to(offline_wandb, step=5)
        run.log({"loss": 0.5}, step=6)  # a step is complete once a later one begins
        summary = dict(run.summary)
    assert (summary["fit/nodes"], summary["gradprobe/nodes"], summary["_step"]) == (2, 2, 5)
    (table,) = tmp_path.rglob("media/table/fit/*.table.json")
    content = json.loads(table.read_text(encoding="utf-8"))
    assert content["columns"][:2] == ["rule", "severity"]
    assert [row[:2] for row in content["data"]] == [["GP103", "warning"]]
    pages = [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes().startswith(b"<!")]
    assert len(pages) == 2
    with pytest.raises(GradprobeError, match=r"wandb.init\(\)"):
        recording.log_to(offline_wandb)


@pytest.fixture
def local_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    yield mlflow
    mlflow.set_tracking_uri(before)


def test_mlflow_gets_metrics_a_table_and_a_page(
    recording: gradprobe.Recording, tmp_path: Path, local_mlflow: Any
) -> None:
    with pytest.raises(GradprobeError, match=r"mlflow.start_run\(\)"):
        recording.log_to(local_mlflow)
    with local_mlflow.start_run() as run:
        recording.log_to(local_mlflow, step=1)
    recording.log_to(local_mlflow.get_run(run.info.run_id), step=2)
    client = local_mlflow.MlflowClient()
    history = client.get_metric_history(run.info.run_id, "gradprobe/time_share/inference_mode_and_enable_grad")
    assert [one.step for one in history] == [1, 2]
    assert 0 < history[0].value < 1
    (page,) = tmp_path.rglob("artifacts/gradprobe/report.html")
    assert "GP103" in page.read_text(encoding="utf-8")
    (table,) = tmp_path.rglob("artifacts/gradprobe/findings.json")
    content = json.loads(table.read_text(encoding="utf-8"))
    place = content["columns"].index("step")
    assert [(row[0], row[place]) for row in content["data"]] == [("GP103", 1), ("GP103", 2)]


@pytest.mark.parametrize(
    ("target", "shown"), [(None, "builtins.NoneType"), (json, "json"), ("runs/1", "builtins.str"), (torch, "torch")]
)
def test_an_unknown_target_is_an_error_that_lists_the_known_ones(
    target: Any, shown: str, recording: gradprobe.Recording
) -> None:
    with pytest.raises(InvalidArgument, match=r"TensorBoard.*wandb.*mlflow") as raised:
        recording.log_to(target)
    assert str(raised.value).endswith(f"got {shown}")


def test_a_subclass_of_a_writer_is_one() -> None:
    """Lightning and others derive from the classes of the trackers."""
    from gradprobe.report.trackers.tracker_registry import find_tracker

    base = type("SummaryWriter", (), {"__module__": "tensorboardX.writer"})
    assert find_tracker(type("Mine", (base,), {"__module__": "mine"})()).package == "tensorboardX"
    with pytest.raises(InvalidArgument):
        find_tracker(type("Run", (), {"__module__": "mlflower"})())


def test_no_tracker_is_imported() -> None:
    code = (
        "import sys, gradprobe.report.trackers.tracker_registry\n"
        "print({'tensorboard', 'tensorboardX', 'wandb', 'mlflow', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
