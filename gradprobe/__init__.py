"""gradprobe: where a PyTorch program changes grad mode and inference mode, and what that costs.

Public are the names that this module exports (``gradprobe.__all__``), the members of the exported classes that do not begin
with an underscore, and the names, options, markers and fixtures of the pytest plugin. The submodules are internal and may
change in any release. Import the package itself, ``import gradprobe`` or ``import gradprobe as gp``, not ``*``: some names
are those of the PyTorch functions that they replace, and ``inspect`` is also a module of Python.

The names load on first use: ``import gradprobe`` imports neither torch nor pandas. The environment variable
``GRADPROBE=0`` disables gradprobe in a process, see ``gradprobe.disable``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gradprobe._version import __version__

if TYPE_CHECKING:
    from gradprobe._switch import disable, enable
    from gradprobe.analysis.tensor_problems import Problem
    from gradprobe.analysis.why.explanation import Explanation, Place
    from gradprobe.capture.autograd.creation import CreationSite
    from gradprobe.comparison.compare import compare
    from gradprobe.comparison.comparison_result import Comparison
    from gradprobe.distributed import gather
    from gradprobe.errors import GradprobeError, InvalidArgument, RecordingError
    from gradprobe.inspection import Inspection, TensorKind, inspect
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
    from gradprobe.phases import phase
    from gradprobe.probing import Probe, probe
    from gradprobe.recorder import Recorder, record
    from gradprobe.result import Recording
    from gradprobe.stored_recordings import load, merge
    from gradprobe.tensor_explanation import why

_HOMES = {
    "Problem": "analysis.tensor_problems",
    "CreationSite": "capture.autograd.creation",
    "Comparison": "comparison.comparison_result",
    "compare": "comparison.compare",
    "GradprobeError": "errors",
    "InvalidArgument": "errors",
    "RecordingError": "errors",
    "gather": "distributed",
    "Explanation": "analysis.why.explanation",
    "Place": "analysis.why.explanation",
    "why": "tensor_explanation",
    "Inspection": "inspection",
    "TensorKind": "inspection",
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
    "phase": "phases",
    "Probe": "probing",
    "probe": "probing",
    "Recorder": "recorder",
    "record": "recorder",
    "Recording": "result",
    "load": "stored_recordings",
    "merge": "stored_recordings",
    "disable": "_switch",
    "enable": "_switch",
}

__all__ = [
    "Comparison",
    "CreationSite",
    "Explanation",
    "GradprobeError",
    "GraphBuilt",
    "Inspection",
    "InvalidArgument",
    "Monitor",
    "Place",
    "Probe",
    "Problem",
    "Recorder",
    "Recording",
    "RecordingError",
    "TensorKind",
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
    "phase",
    "probe",
    "record",
    "set_grad_enabled",
    "why",
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
