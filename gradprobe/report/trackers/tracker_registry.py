"""Registry of the experiment trackers: recognized by the target's class or module, without importing any of them.

To add a tracker, write a module with a function from a ``TrackedReport`` and a target, and add a line to ``TRACKERS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from gradprobe.errors import InvalidArgument
from gradprobe.report.trackers import mlflow, tensorboard, wandb
from gradprobe.report.trackers.tracked_report import TrackedReport


@dataclass(frozen=True)
class Tracker:
    """An experiment tracker: the package of its class, the class itself, and whether the package is a target too."""

    package: str
    class_name: str
    takes_package: bool
    description: str
    log_report: Callable[[TrackedReport, Any], None]

    def accepts(self, target: Any) -> bool:
        """Return whether ``target`` is of this tracker."""
        if isinstance(target, ModuleType):
            return self.takes_package and target.__name__ == self.package
        return any(
            kind.__name__ == self.class_name and f"{kind.__module__}.".startswith(f"{self.package}.")
            for kind in type(target).__mro__
        )


TRACKERS = (
    Tracker(
        "torch.utils.tensorboard", "SummaryWriter", False, "a SummaryWriter of TensorBoard", tensorboard.log_report
    ),
    Tracker("tensorboardX", "SummaryWriter", False, "a SummaryWriter of tensorboardX", tensorboard.log_report),
    Tracker("wandb", "Run", True, "a run of Weights & Biases or the module wandb", wandb.log_report),
    Tracker("mlflow", "Run", True, "a run of MLflow or the module mlflow", mlflow.log_report),
)


def find_tracker(target: Any) -> Tracker:
    """Return the tracker of ``target``; raise ``InvalidArgument`` if there is none."""
    for tracker in TRACKERS:
        if tracker.accepts(target):
            return tracker
    *others, last = (tracker.description for tracker in TRACKERS)
    shown = (
        target.__name__ if isinstance(target, ModuleType) else f"{type(target).__module__}.{type(target).__qualname__}"
    )
    raise InvalidArgument(f"target must be {', '.join(others)}, or {last}, got {shown}")
