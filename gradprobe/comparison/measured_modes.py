"""Arms of a comparison: the modes, and the control, which measures the baseline a second time."""

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
"""Arm that measures the baseline a second time. Its difference to the baseline shows what the machine adds."""


def make_mode_context(arm: str) -> AbstractContextManager[object]:
    """Return a new context manager for an arm. That of `grad` enables grad regardless of the caller's grad mode."""
    if arm in (NO_GRAD, CONTROL):
        return torch.no_grad()
    if arm == GRAD:
        return torch.enable_grad()
    return torch.inference_mode()


def validate_modes(modes: object) -> tuple[str, ...]:
    """Return the modes in their order, the baseline among them. Raises ``GradprobeError`` for unknown ones."""
    if isinstance(modes, str):
        modes = modes.split(",")
    choices = ", ".join(MODES)
    try:
        requested = tuple(dict.fromkeys(modes))  # type: ignore[call-overload]
    except TypeError:
        raise GradprobeError(f"modes must be a list of modes, got {modes!r}; use {choices}") from None
    if not requested:
        raise GradprobeError(f"modes must not be empty; use one of {choices}")
    unknown = [mode for mode in requested if mode not in MODES]
    if unknown:
        raise GradprobeError(f"unknown mode {unknown[0]!r}; use one of {choices}")
    return tuple(mode for mode in MODES if mode in requested or mode == BASELINE)
