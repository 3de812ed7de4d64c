"""Validated settings of a comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from gradprobe.comparison import measured_modes
from gradprobe.errors import GradprobeError

DEFAULT_PROCESSES = 5
BASE_BUDGET_S, WORKLOAD_BUDGET_S = 20.0, 6.0
"""Default budget in seconds: a base for all workloads, and a part for each."""


@dataclass(frozen=True)
class ComparisonSettings:
    """Settings of a comparison."""

    modes: tuple[str, ...] = measured_modes.DEFAULT_MODES
    precision: float = 0.02
    """Half-width of the intervals at which measuring stops, as a share."""
    budget_s: float | None = None
    """Maximum number of seconds for all workloads, counted from when the processes have started."""
    seed: int = 0
    device: str | None = None
    processes: int = DEFAULT_PROCESSES
    threads: int | None = None
    instructions: bool = False

    def budget(self, workloads: int) -> float:
        """Return the budget in seconds for a number of workloads.

        The default one is enough for most machines to reach the precision.
        """
        return self.budget_s if self.budget_s is not None else BASE_BUDGET_S + WORKLOAD_BUDGET_S * workloads


def validate_settings(**given: Any) -> ComparisonSettings:
    """Return the settings from a user's values. Raises ``GradprobeError`` for invalid ones."""
    modes = measured_modes.validate_modes(given.get("modes", measured_modes.DEFAULT_MODES))
    settings = ComparisonSettings(**{**given, "modes": modes})
    if not _is_number(settings.precision) or not 0 < settings.precision < 1:
        raise GradprobeError(f"precision must be between 0 and 1 (0.02 means +-2 %), got {settings.precision!r}")
    if settings.budget_s is not None and not (_is_number(settings.budget_s) and settings.budget_s > 0):
        raise GradprobeError(f"budget_s must be a number of seconds above 0, got {settings.budget_s!r}")
    for name, least, most in (("processes", 1, 1000), ("threads", 1, 2**31 - 1), ("seed", 0, 2**64 - 1)):
        value = getattr(settings, name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most):
            raise GradprobeError(f"{name} must be an integer from {least} to {most}, got {value!r}")
    if settings.device is not None:
        _check_device(settings.device)
    return replace(
        settings,
        precision=float(settings.precision),
        budget_s=None if settings.budget_s is None else float(settings.budget_s),
        device=None if settings.device is None else str(settings.device),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _check_device(name: str) -> None:
    import torch

    try:
        torch.empty(1, device=name).fill_(0.0).item()
    except Exception as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GradprobeError(f"cannot use device {str(name)!r}: {line}; omit it to measure on the CPU") from None
