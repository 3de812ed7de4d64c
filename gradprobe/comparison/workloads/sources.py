"""Where workloads come from, in a form that another process can take up: suites, names of functions, pickled calls."""

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

from gradprobe.comparison.workloads.inference_copy import copy_in_inference_mode
from gradprobe.comparison.workloads.workload import Workload, WorkloadCall
from gradprobe.errors import GradprobeError

SUITE_NAMES = ("ops", "models")


@dataclass(frozen=True)
class WorkloadSource:
    """``kind`` is `suite`, `name`, `hf` or `pickle`; ``where`` the suite, MODULE:FUNCTION or FILE.py:FUNCTION, the model
    of transformers, or a file."""

    kind: str
    where: str

    def workloads(self) -> list[Workload]:
        """The workloads, imported or read in this process. Raises ``GradprobeError`` where there are none."""
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
    """The workloads of `ops` or `models`."""
    if name not in SUITE_NAMES:
        raise GradprobeError(f"there is no suite {name!r}; choose among {', '.join(SUITE_NAMES)}")
    workloads: list[Workload] = importlib.import_module(
        f"gradprobe.comparison.workloads.suites.{name}_suite"
    ).workloads()
    return workloads


def load_target(target: str) -> Workload:
    """The workload behind MODULE:FUNCTION or FILE.py:FUNCTION.

    The function is called without arguments. What it returns is measured if that can be called; otherwise the function
    itself is what is measured.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise GradprobeError(f"{target!r} names no function; write MODULE:FUNCTION or FILE.py:FUNCTION")
    module = _file(Path(place)) if place.endswith(".py") else _module(place)
    function: Any = module
    for part in name.split("."):
        function = getattr(function, part, None)
        if function is None:
            raise GradprobeError(f"there is no {name} in {place}; name a function that is there")
    if not callable(function):
        raise GradprobeError(f"{target} is a {type(function).__name__}, not a function; name one that can be called")
    if isinstance(function, torch.nn.Module):
        raise GradprobeError(
            f"{target} is a module, which needs inputs; name a function that returns a call: lambda: model(x)"
        )
    return Workload(name, partial(_made, function, target))


def bind_call(function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Workload:
    """The workload of one call of ``function`` with these arguments."""
    name = getattr(function, "__qualname__", None) or type(function).__qualname__

    def build() -> WorkloadCall:
        if not torch.is_inference_mode_enabled():
            return partial(function, *args, **kwargs)
        return copy_in_inference_mode(partial(function, *args, **kwargs))

    return Workload(name, build)


def _made(function: Callable[[], object], target: str) -> WorkloadCall:
    try:
        made = function()
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:
            raise GradprobeError(
                f"{target} cannot be called without arguments ({error}); name a function that returns the call"
            ) from None
        return function
    except Exception:
        return function  # which may work in another mode than this one; where it fails, its error is the result
    if isinstance(made, CoroutineType):
        made.close()  # which is told of when the function itself is called
    return made if callable(made) else function


def _module(name: str) -> ModuleType:
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise GradprobeError(f"there is no module {name}; run from the folder that holds it") from None
        raise GradprobeError(f"cannot import {name}: {error}") from error
    except Exception as error:
        raise GradprobeError(f"cannot import {name}: {type(error).__name__}: {error}") from error


def _file(path: Path) -> ModuleType:
    """The module in a file, under the file's own name, with its folder first on the path as python would have it."""
    if not path.is_file():
        raise GradprobeError(f"there is no file {path}; name one that is there")
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
