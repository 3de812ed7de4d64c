"""Choice of the core for level ``ops``: the native one, if it was built for this Python and PyTorch."""

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

from gradprobe.capture.ops.native.mirrored import find_mismatch
from gradprobe.errors import GradprobeError

EXTENSION_NAME = "gradprobe_core"
FAILURE_FILE = "failed.txt"
"""Name of the file that says why the core could not be built."""
CHECKSUM_FILE = "sum.txt"
"""Name of the file with the core's checksum. A damaged core is not loaded: it would end the program."""
CORE_VARIABLE = "GRADPROBE_CORE"
SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
_HEADERS = sorted(Path(__file__).parent.glob("*.h"))


def locate_core_folder() -> Path:
    """Return the folder, among PyTorch's extensions, of the core for this Python, PyTorch and source."""
    known = hashlib.sha256()
    for part in (torch.__version__, torch.version.git_version, sys.version, platform.machine()):
        known.update(f"{part}\n".encode())
    for path in (*SOURCES, *_HEADERS):
        known.update(path.read_bytes())
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or Path(caches) / "torch_extensions"
    return Path(root) / f"gradprobe-{known.hexdigest()[:16]}"


def load_core() -> Any:
    """Return the native core's module, or None if level ``ops`` runs in Python.

    Raises:
        GradprobeError: The variable ``GRADPROBE_CORE`` is unknown, or demands a native core that is not available.
    """
    wanted = os.environ.get(CORE_VARIABLE) or "any"
    if wanted not in ("any", "native", "python"):
        raise GradprobeError(f"{CORE_VARIABLE} must be 'native' or 'python', got {wanted!r}")
    if wanted == "python":
        return None
    module, why = _load(locate_core_folder())
    if module is None and wanted == "native":
        raise GradprobeError(f"cannot use the native core, which {CORE_VARIABLE}=native requires: {why}")
    return module


def core_status() -> tuple[bool, str]:
    """Return whether level ``ops`` runs with the native core, and a sentence about it."""
    try:
        if load_core() is not None:
            return True, f"level ops runs most operators in {locate_core_folder() / EXTENSION_NAME}.so"
    except GradprobeError as error:
        return False, str(error)
    if os.environ.get(CORE_VARIABLE) == "python":
        return False, f"level ops runs in Python, as {CORE_VARIABLE}=python requires"
    return False, f"level ops runs in Python, which is slower: {_load(locate_core_folder())[1]}"


def compute_checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_intact(path: Path) -> bool:
    """Return whether the core exists and has the checksum that it was built with."""
    try:
        return compute_checksum(path) == (path.parent / CHECKSUM_FILE).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return False


@functools.lru_cache
def _load(folder: Path) -> tuple[Any, str]:
    path = folder / f"{EXTENSION_NAME}.so"
    try:
        found, failed = path.is_file(), (folder / FAILURE_FILE).is_file()
        why = (folder / FAILURE_FILE).read_text(encoding="utf-8") if failed else ""
    except OSError as error:
        return None, f"cannot read {path}: {error}"
    if not found and failed:
        return None, f"the last build of the native core failed ({why})"
    if not found:
        return None, "the native core is not built for this Python and PyTorch; build it with `gradprobe build`"
    if not is_intact(path):
        return None, f"{path} is damaged; rebuild it with `gradprobe build --force`"
    loader = importlib.machinery.ExtensionFileLoader(EXTENSION_NAME, str(path))
    spec = importlib.util.spec_from_loader(EXTENSION_NAME, loader)
    try:
        if spec is None:
            raise ImportError(f"{path} is not a module")
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        return None, f"cannot load {path}: {error}; rebuild it with `gradprobe build --force`"
    mismatch = find_mismatch(module)
    if mismatch is not None:
        return None, f"cannot use {path}: {mismatch}; rebuild it with `gradprobe build --force`"
    return module, ""
