"""The handler for PyTorch-Ignite, in real runs of its engines."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import gradprobe

pytest.importorskip("ignite.engine", reason="pip install 'gradprobe[ignite]'")


def test_an_evaluator_inside_the_trainer_is_a_phase_and_errors_still_raise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from ignite.engine import Engine, Events

    from gradprobe.integrations.ignite import GradprobeHandler

    layer = torch.nn.Linear(4, 1)

    def train(engine: Any, batch: torch.Tensor) -> float:
        loss = layer(batch).sum()
        loss.backward()
        return float(loss.detach())

    def evaluate(engine: Any, batch: torch.Tensor) -> None:
        with torch.inference_mode(), torch.enable_grad():
            layer(batch)

    def fail(engine: Any, batch: Any) -> None:
        raise ValueError("mine")

    trainer, evaluator, failing = Engine(train), Engine(evaluate), Engine(fail)
    handler = GradprobeHandler(folder=tmp_path)
    handler.attach(trainer)
    handler.attach(evaluator, "validate")
    handler.attach(failing, "predict")
    data = [torch.ones(2, 4)] * 2
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(data) and None)
    with caplog.at_level(logging.INFO, "ignite.gradprobe"):
        assert trainer.run(data, max_epochs=1).iteration == 2
        with pytest.raises(ValueError, match="mine"):
            failing.run(data)
    for engine in (trainer, evaluator, failing):
        handler.detach(engine)
    evaluator.run(data)
    assert handler.recording is not None
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["fit-1", "predict-1"]
    phases = gradprobe.load(tmp_path / "fit-1.gradprobe").phases.query("not automatic")["phase"]
    assert phases.tolist() == ["fit", "validate"]
    assert any("GP103" in record.message and "test_ignite.py" in record.message for record in caplog.records)
