"""Which core level ops runs with, and why: the native one, if it was built for this Python and this PyTorch."""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from gradprobe.errors import GradprobeError

NAME = "gradprobe_core"
FAILED = "failed.txt"
"""Where it stands why the core could not be built."""
SUM = "sum.txt"
"""Where the sum of the file stands: to load a damaged one would end the program."""
VARIABLE = "GRADPROBE_CORE"
SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
_HEADERS = sorted(Path(__file__).parent.glob("*.h"))


def folder() -> Path:
    """Where the core for this Python, this PyTorch and this source is, or will be: where PyTorch keeps extensions."""
    known = hashlib.sha256()
    for part in (torch.__version__, torch.version.git_version, sys.version, platform.machine()):
        known.update(f"{part}\n".encode())
    for path in (*SOURCES, *_HEADERS):
        known.update(path.read_bytes())
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or Path(caches) / "torch_extensions"
    return Path(root) / f"gradprobe-{known.hexdigest()[:16]}"


def core() -> Any:
    """The native core, a module; None where level ops runs in Python.

    Raises ``GradprobeError`` if the environment demands the native core and there is none.
    """
    wanted = os.environ.get(VARIABLE) or "any"
    if wanted not in ("any", "native", "python"):
        raise GradprobeError(f"{VARIABLE}={wanted} is none of the cores; they are native and python")
    if wanted == "python":
        return None
    module, why = _loaded(folder())
    if module is None and wanted == "native":
        raise GradprobeError(f"{VARIABLE}=native, but {why}")
    return module


def core_status() -> tuple[bool, str]:
    """Whether level ops runs with the native core, and what to say of it."""
    try:
        if core() is not None:
            return True, f"most operators at level ops are done by {folder() / NAME}.so"
    except GradprobeError as error:
        return False, str(error)
    if os.environ.get(VARIABLE) == "python":
        return False, f"level ops runs in Python, as {VARIABLE}=python asks"
    return False, f"level ops runs in Python, which costs more: {_loaded(folder())[1]}"


def sum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_whole(path: Path) -> bool:
    """Whether a core is there, as it was built."""
    try:
        return sum_of(path) == (path.parent / SUM).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return False


@functools.lru_cache
def _loaded(place: Path) -> tuple[Any, str]:
    path = place / f"{NAME}.so"
    try:
        found, failed = path.is_file(), (place / FAILED).is_file()
        why = (place / FAILED).read_text(encoding="utf-8") if failed else ""
    except OSError as error:
        return None, f"{path} cannot be read ({error})"
    if not found and failed:
        return None, f"the native core could not be built here ({why})"
    if not found:
        return None, "the native core was not built for this Python and this PyTorch; `gradprobe build` does that"
    if not is_whole(path):
        return None, f"{path} is damaged; build it anew with `gradprobe build --force`"
    loader = importlib.machinery.ExtensionFileLoader(NAME, str(path))
    spec = importlib.util.spec_from_loader(NAME, loader)
    try:
        if spec is None:
            raise ImportError(f"{path} is no module")
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        return None, f"{path} cannot be loaded ({error}); build it anew with `gradprobe build --force`"
    return module, ""
