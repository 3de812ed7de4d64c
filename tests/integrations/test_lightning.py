"""The callback for Lightning, in real runs of its trainer."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import gradprobe

lightning = pytest.importorskip("lightning.pytorch", reason="pip install 'gradprobe[lightning]'")


class Model(lightning.LightningModule):  # type: ignore[misc, name-defined, unused-ignore]
    """A model whose test step has no effect on grad mode inside inference mode, and may raise."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.raises = False

    def training_step(self, batch: Any, number: int) -> Any:
        if self.raises:
            raise ValueError("mine")
        return self.layer(batch).sum()

    def validation_step(self, batch: Any, number: int) -> None:
        self.layer(batch)

    def test_step(self, batch: Any, number: int) -> None:
        with torch.enable_grad():
            self.layer(batch)

    def predict_step(self, batch: Any, number: int) -> Any:
        return self.layer(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def named(recording: gradprobe.Recording) -> set[str]:
    """Return the phases that the callback named."""
    return set(recording.phases.query("not automatic")["phase"])


def test_runs_have_their_phases_and_their_findings_go_to_the_logger(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from gradprobe.integrations.lightning import GradprobeCallback

    data = torch.utils.data.DataLoader(torch.ones(8, 4), batch_size=4)  # type: ignore[arg-type, var-annotated]
    callback, model = GradprobeCallback(folder=tmp_path / "runs"), Model()
    trainer = lightning.Trainer(
        callbacks=[callback],
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    logger = logging.getLogger("lightning.pytorch")
    logger.addHandler(caplog.handler)
    try:
        trainer.fit(model, data, data)
        trainer.validate(model, data, verbose=False)
        trainer.test(model, data, verbose=False)
        trainer.predict(model, data)
        model.raises, trainer.fit_loop.max_epochs = True, 2
        with pytest.raises(ValueError, match="mine"):
            trainer.fit(model, data)
    finally:
        logger.removeHandler(caplog.handler)
    assert callback.recording is not None
    assert "save_checkpoint" not in vars(trainer)
    found = {path.stem: gradprobe.load(path) for path in (tmp_path / "runs").iterdir()}
    assert sorted(found) == ["fit-1", "fit-2", "predict-1", "test-1", "validate-1"]
    phases = {name: named(recording) for name, recording in found.items()}
    assert phases["fit-1"] == {"fit", "validate", "save"}
    assert phases["validate-1"] == {"validate"}
    assert phases["test-1"] == {"test"}
    assert phases["predict-1"] == {"predict"}
    blocks = found["fit-1"].regions
    assert "validate" in set(blocks[blocks["manager"] == "no_grad"]["phase"])
    assert any("GP103" in record.message and "test_lightning.py" in record.message for record in caplog.records)
