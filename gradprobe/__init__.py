"""gradprobe: what PyTorch's gradient and inference modes do in a program, where, and at what cost.

The names load on first use: ``import gradprobe`` imports neither torch nor pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gradprobe._version import __version__

if TYPE_CHECKING:
    from gradprobe._switch import disable, enable
    from gradprobe.comparison.compare import compare
    from gradprobe.comparison.comparison_result import Comparison
    from gradprobe.distributed import gather
    from gradprobe.errors import GradprobeError, RecordingError
    from gradprobe.inspection import Inspection, inspect
    from gradprobe.managers import (
        enable_grad,
        inference_mode,
        is_grad_enabled,
        is_inference_mode_enabled,
        no_grad,
        set_grad_enabled,
    )
    from gradprobe.monitoring.inference_paths import GraphBuilt
    from gradprobe.monitoring.monitor import Monitor, monitor
    from gradprobe.probing import probe
    from gradprobe.recorder import record
    from gradprobe.result import Recording, load, merge

_HOMES = {
    "Comparison": "comparison.comparison_result",
    "compare": "comparison.compare",
    "GradprobeError": "errors",
    "RecordingError": "errors",
    "gather": "distributed",
    "Inspection": "inspection",
    "inspect": "inspection",
    "enable_grad": "managers",
    "inference_mode": "managers",
    "is_grad_enabled": "managers",
    "is_inference_mode_enabled": "managers",
    "no_grad": "managers",
    "set_grad_enabled": "managers",
    "load_ipython_extension": "notebook",
    "GraphBuilt": "monitoring.inference_paths",
    "Monitor": "monitoring.monitor",
    "monitor": "monitoring.monitor",
    "probe": "probing",
    "record": "recorder",
    "Recording": "result",
    "load": "result",
    "merge": "result",
    "disable": "_switch",
    "enable": "_switch",
}

__all__ = [
    "Comparison",
    "GradprobeError",
    "GraphBuilt",
    "Inspection",
    "Monitor",
    "Recording",
    "RecordingError",
    "__version__",
    "compare",
    "disable",
    "enable",
    "enable_grad",
    "gather",
    "inference_mode",
    "inspect",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "load",
    "merge",
    "monitor",
    "no_grad",
    "probe",
    "record",
    "set_grad_enabled",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
