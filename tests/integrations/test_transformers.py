"""The callback for the trainer of transformers, in real runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import gradprobe

transformers = pytest.importorskip("transformers", reason="pip install 'gradprobe[transformers]'")
pytest.importorskip("accelerate", reason="pip install 'gradprobe[transformers]'")


class Model(torch.nn.Module):
    """A model that asks for gradients where there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, x: Any, labels: Any = None) -> Any:
        if not self.training:
            with torch.inference_mode(), torch.enable_grad():
                self.layer(x)
        output = self.layer(x)
        return {"loss": output.sum(), "logits": output}


def make_trainer(folder: Path, **more: Any) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "out"), max_steps=2, per_device_train_batch_size=2, report_to=[], use_cpu=True,
        eval_strategy="steps", eval_steps=1, save_steps=1, disable_tqdm=True
    )  # fmt: skip
    data = [{"x": torch.ones(4), "labels": torch.ones(1)} for _ in range(4)]
    return transformers.Trainer(Model(), arguments, train_dataset=data, eval_dataset=data, **more)


def named(recording: gradprobe.Recording) -> set[str]:
    """Return the phases that the callback named."""
    return set(recording.phases.query("not automatic")["phase"])


def test_runs_have_their_phases_and_their_findings_go_to_the_logger(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from gradprobe.integrations.transformers import GradprobeCallback

    callback = GradprobeCallback(folder=tmp_path / "runs")
    trainer = make_trainer(tmp_path, callbacks=[callback])
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        trainer.train()
        trainer.evaluate()
        trainer.predict(trainer.eval_dataset)
    finally:
        logger.removeHandler(caplog.handler)
    found = {path.stem: gradprobe.load(path) for path in (tmp_path / "runs").iterdir()}
    assert sorted(found) == ["fit-1", "predict-1", "validate-1"]
    phases = {name: named(recording) for name, recording in found.items()}
    assert phases["fit-1"] == {"fit", "validate", "save"}
    assert phases["validate-1"] == {"validate"}
    assert phases["predict-1"] == {"predict"}
    assert set(found["fit-1"].regions["phase"]) == {"validate"}
    assert any("GP103" in record.getMessage() for record in caplog.records)


def test_a_callback_that_is_added_later_records_from_the_training_on(tmp_path: Path) -> None:
    from gradprobe.integrations.transformers import GradprobeCallback

    callback = GradprobeCallback(level="graph")
    trainer = make_trainer(tmp_path)
    trainer.add_callback(callback)
    trainer.train()
    assert callback.recording is not None
    assert named(callback.recording) == {"fit", "validate", "save"}
