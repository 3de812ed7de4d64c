"""Recordings in Weights & Biases, by a run or by the module ``wandb`` and its current run."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from gradprobe.errors import GradprobeError
from gradprobe.report.trackers.tracked_report import TrackedReport


def log_report(report: TrackedReport, target: Any) -> None:
    """Log a report to a run of Weights & Biases."""
    run = _find_run(target)
    wandb: Any = sys.modules["wandb"]
    findings = wandb.Table(columns=[*report.findings.columns], data=report.findings.to_numpy().tolist())
    run.log({**report.scalars, f"{report.prefix}/findings": findings}, step=report.step)
    artifact = wandb.Artifact(f"{report.prefix.replace('/', '.')}-{run.id}", type="gradprobe")
    with artifact.new_file(report.file_name, encoding="utf-8") as file:
        file.write(report.page)
    run.log_artifact(artifact)


def _find_run(target: Any) -> Any:
    run = target.run if isinstance(target, ModuleType) else target
    if run is None:
        raise GradprobeError("cannot log to wandb: it has no current run; call wandb.init() first, or pass a run")
    return run
