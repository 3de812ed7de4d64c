"""The arms of a comparison: under which manager a workload runs, and how it is prepared."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final

import torch

from gradprobe.errors import GradprobeError

GRAD: Final = "grad"
NO_GRAD: Final = "no_grad"
INFERENCE: Final = "inference_mode"
INFERENCE_PARAMETERS: Final = "inference_mode+parameters"
MODES: Final = (GRAD, NO_GRAD, INFERENCE, INFERENCE_PARAMETERS)
DEFAULT_MODES: Final = (GRAD, NO_GRAD, INFERENCE)
BASELINE: Final = NO_GRAD
CONTROL: Final = "no_grad again"
"""The baseline a second time: what it differs from itself by is what the machine does to a measurement."""


def make_mode_context(arm: str) -> AbstractContextManager[object]:
    """A fresh manager for an arm. Gradients are switched on for `grad`, wherever the comparison was called from."""
    if arm in (NO_GRAD, CONTROL):
        return torch.no_grad()
    if arm == GRAD:
        return torch.enable_grad()
    return torch.inference_mode()


def validate_modes(modes: object) -> tuple[str, ...]:
    """The modes asked for, the baseline among them. Raises ``GradprobeError`` for what is no mode."""
    if isinstance(modes, str):
        modes = modes.split(",")
    try:
        asked = tuple(dict.fromkeys(modes))  # type: ignore[call-overload]
    except TypeError:
        raise GradprobeError(f"modes={modes!r} is not a list of modes; choose among {', '.join(MODES)}") from None
    unknown = [mode for mode in asked if mode not in MODES]
    if unknown or not asked:
        named = f"{unknown[0]!r} is no mode" if unknown else "no mode was named"
        raise GradprobeError(f"{named}; choose among {', '.join(MODES)}")
    return tuple(mode for mode in MODES if mode in asked or mode == BASELINE)
