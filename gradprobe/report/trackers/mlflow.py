"""Recordings in MLflow, by a run or by the module ``mlflow`` and its active run."""

from __future__ import annotations

import sys
import time
from types import ModuleType
from typing import Any

from gradprobe.errors import GradprobeError
from gradprobe.report.trackers.tracked_report import TrackedReport


def log_report(report: TrackedReport, target: Any) -> None:
    """Log a report to a run of MLflow."""
    run_id = _find_run(target).info.run_id
    mlflow: Any = sys.modules["mlflow"]
    client = mlflow.MlflowClient()
    now_ms, step = time.time_ns() // 1_000_000, report.step or 0
    metrics = [mlflow.entities.Metric(name, value, now_ms, step) for name, value in report.scalars.items()]
    client.log_batch(run_id, metrics=metrics)
    # MLflow adds the rows to those of earlier steps, so that each has to say which step it is of.
    findings = report.findings.assign(step=report.step)
    client.log_table(run_id, findings, f"{report.prefix}/findings.json")
    client.log_text(run_id, report.page, f"{report.prefix}/report.html")


def _find_run(target: Any) -> Any:
    run = target.active_run() if isinstance(target, ModuleType) else target
    if run is None:
        raise GradprobeError("cannot log to mlflow: it has no active run; call mlflow.start_run() first, or pass a run")
    return run
