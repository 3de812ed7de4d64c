"""What a comparison was asked to do, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from gradprobe.comparison import measured_modes
from gradprobe.errors import GradprobeError

DEFAULT_PROCESSES = 5
BASE_BUDGET_S, WORKLOAD_BUDGET_S = 20.0, 6.0


@dataclass(frozen=True)
class ComparisonSettings:
    """``budget_s`` is seconds for all workloads, after processes have started; ``precision`` half the width of an interval,
    as a share."""

    modes: tuple[str, ...] = measured_modes.DEFAULT_MODES
    precision: float = 0.02
    budget_s: float | None = None
    seed: int = 0
    device: str | None = None
    processes: int = DEFAULT_PROCESSES
    threads: int | None = None
    instructions: bool = False

    def budget(self, workloads: int) -> float:
        """Seconds in all; where none were given, enough for most machines to reach the precision."""
        return self.budget_s if self.budget_s is not None else BASE_BUDGET_S + WORKLOAD_BUDGET_S * workloads


def validate_settings(**given: Any) -> ComparisonSettings:
    """The settings from what a user gave. Raises ``GradprobeError`` for what cannot be."""
    settings = ComparisonSettings(
        **{**given, "modes": measured_modes.validate_modes(given.get("modes", measured_modes.DEFAULT_MODES))}
    )
    if not _is_number(settings.precision) or not 0 < settings.precision < 1:
        raise GradprobeError(f"precision={settings.precision!r} is no share; give one such as 0.02 for two per cent")
    if settings.budget_s is not None and not (_is_number(settings.budget_s) and settings.budget_s > 0):
        raise GradprobeError(f"budget_s={settings.budget_s!r} leaves no time; give a number of seconds above 0")
    for name, least, most in (("processes", 1, 1000), ("threads", 1, 2**31 - 1), ("seed", 0, 2**64 - 1)):
        value = getattr(settings, name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most):
            raise GradprobeError(f"{name}={value!r} cannot be; give a whole number of {least} to {most}")
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
        raise GradprobeError(
            f"device {name!r} cannot be used here: {line}; leave it out to measure on the CPU"
        ) from None
