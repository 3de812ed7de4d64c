"""The tracker for Accelerate, in a real training loop of its accelerator."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import gradprobe

pytest.importorskip("accelerate", reason="pip install 'gradprobe[accelerate]'")


def test_the_recording_lasts_from_init_trackers_to_end_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from accelerate import Accelerator

    from gradprobe.integrations.accelerate import GradprobeTracker

    tracker = GradprobeTracker(folder=tmp_path)
    accelerator = Accelerator(cpu=True, log_with=tracker)
    torch.arange(3)
    accelerator.init_trackers("project", config={"rate": 0.1})
    layer = torch.nn.Linear(4, 1)
    layer, optimizer = accelerator.prepare(layer, torch.optim.SGD(layer.parameters(), lr=0.1))
    with caplog.at_level(logging.INFO, "accelerate.gradprobe"):
        for step in range(2):
            loss = layer(torch.ones(2, 4)).sum()
            accelerator.backward(loss)
            optimizer.step()
            accelerator.log({"loss": float(loss.detach())}, step=step)
            with gradprobe.phase("validate"), torch.inference_mode(), torch.enable_grad():
                layer(torch.ones(2, 4))
        accelerator.end_training()
    assert accelerator.get_tracker("gradprobe", unwrap=True) is tracker.recording
    (path,) = tmp_path.iterdir()
    recording = gradprobe.load(path)
    assert path.stem == "fit-1"
    assert set(recording.phases.query("not automatic")["phase"]) == {"fit", "validate"}
    assert not recording.ops["op"].str.contains("arange").any()
    assert any("GP103" in record.message and "test_accelerate.py" in record.message for record in caplog.records)
