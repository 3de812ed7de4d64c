"""Surroundings of a comparison: versions, machine, device, and the settings of the machine that affect times."""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from gradprobe.comparison.settings import ComparisonSettings
from gradprobe.environment import environment


def read_surroundings(settings: ComparisonSettings) -> dict[str, Any]:
    """Return the environment of a comparison, as its reports show it."""
    known = environment()
    if settings.device is not None and torch.device(settings.device).type == "cuda":
        known["accelerator"] = torch.cuda.get_device_name(settings.device)
    return {
        **known,
        "device": settings.device or "cpu",
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "cpu_governor": _read_cpu_governor(),
        "garbage_collection": "off while timing, run before each turn",
    }


def _read_cpu_governor() -> str | None:
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return None


@contextlib.contextmanager
def keep_generators() -> Iterator[None]:
    """Restore the program's random generators on exit."""
    state, numpy = random.getstate(), sys.modules.get("numpy")
    drawn = numpy.random.get_state() if numpy is not None else None
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(state)
        if numpy is not None:
            numpy.random.set_state(drawn)


@contextlib.contextmanager
def reset_modes() -> Iterator[None]:
    """Enter the default modes: an inference mode of the caller would reach into every arm."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
