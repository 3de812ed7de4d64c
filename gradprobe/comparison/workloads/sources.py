"""Sources of workloads that any process can open: suites, names of functions, models, pickled calls."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CoroutineType, ModuleType
from typing import Any

import torch

from gradprobe.comparison.workloads.call_arguments import name_function
from gradprobe.comparison.workloads.inference_copy import copy_in_inference_mode
from gradprobe.comparison.workloads.workload import Workload, WorkloadCall
from gradprobe.errors import GradprobeError

SUITE_NAMES = ("ops", "models")


@dataclass(frozen=True)
class WorkloadSource:
    """Source of workloads."""

    kind: str
    """Kind of source: `suite`, `name`, `hf` or `pickle`."""
    where: str
    """Name of the suite, MODULE:FUNCTION or FILE.py:FUNCTION, model of transformers, or path of the file."""

    def load_workloads(self) -> list[Workload]:
        """Import or read the workloads in this process. Raises ``GradprobeError`` if that fails."""
        if self.kind == "suite":
            return load_suite(self.where)
        if self.kind == "name":
            return [load_target(self.where)]
        if self.kind == "hf":
            from gradprobe.comparison.workloads.suites.pretrained_models import build_workload

            return [build_workload(self.where)]
        with open(self.where, "rb") as file:
            return [bind_call(*pickle.load(file))]


def load_suite(name: str) -> list[Workload]:
    """Return the workloads of a suite."""
    if name not in SUITE_NAMES:
        raise GradprobeError(f"unknown suite {name!r}; use one of {', '.join(SUITE_NAMES)}")
    workloads: list[Workload] = importlib.import_module(
        f"gradprobe.comparison.workloads.suites.{name}_suite"
    ).build_workloads()
    return workloads


def load_target(target: str) -> Workload:
    """Return the workload of MODULE:FUNCTION or FILE.py:FUNCTION.

    The function is called without arguments. Its return value is measured if it is callable, otherwise the function
    itself.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise GradprobeError(f"target must be MODULE:FUNCTION or FILE.py:FUNCTION, got {target!r}")
    module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    function: Any = module
    for part in name.split("."):
        function = getattr(function, part, None)
        if function is None:
            raise GradprobeError(
                f"cannot measure {target}: {place} has no attribute {name}; name a function that it defines"
            )
    if not callable(function):
        raise GradprobeError(
            f"cannot measure {target}: it is a {type(function).__name__}, not a function; name a callable"
        )
    if isinstance(function, torch.nn.Module):
        raise GradprobeError(
            f"cannot measure {target}: it is a torch module without inputs; name a function that returns lambda: model(x)"
        )
    return Workload(name, partial(_build_target, function, target))


def bind_call(function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Workload:
    """Return the workload of one call of ``function`` with these arguments."""

    def build() -> WorkloadCall:
        if not torch.is_inference_mode_enabled():
            return partial(function, *args, **kwargs)
        return copy_in_inference_mode(partial(function, *args, **kwargs))

    return Workload(name_function(function), build)


def _build_target(function: Callable[[], object], target: str) -> WorkloadCall:
    try:
        made = function()
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:
            raise GradprobeError(
                f"cannot call {target} without arguments: {error}; name a function that returns the call"
            ) from None
        return function
    except Exception:
        return function  # it may succeed in another mode; if it fails there, its error is the result
    if isinstance(made, CoroutineType):
        made.close()  # reported when the function itself is called
    return made if callable(made) else function


def _import_module(name: str) -> ModuleType:
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise GradprobeError(
                f"cannot import {name}: there is no such module; run from the folder that contains it"
            ) from None
        raise GradprobeError(f"cannot import {name}: {error}; install the missing module") from error
    except Exception as error:
        raise GradprobeError(f"cannot import {name}: {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> ModuleType:
    """Return the module of a file, named after it. Its folder is put first on the path, as python does for a script."""
    if not path.is_file():
        raise GradprobeError(f"cannot open {path}: there is no such file; name an existing one")
    folder = os.path.dirname(os.path.realpath(path))
    if folder not in sys.path:
        sys.path.insert(0, folder)
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == os.path.realpath(path):
        return known
    spec = importlib.util.spec_from_file_location(path.stem, os.path.realpath(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if known is None:
        sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise GradprobeError(f"cannot import {path}: {type(error).__name__}: {error}") from error
    return module
