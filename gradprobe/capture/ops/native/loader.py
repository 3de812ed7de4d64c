"""The library that observes operators as a module of Python: the one that a wheel brought, or one that is built at its
first use."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
from pathlib import Path
from typing import Any

from gradprobe.capture.autograd.creation import REGISTRY
from gradprobe.capture.ops.native.builder import build_at_first_use
from gradprobe.capture.ops.native.library_file import (
    FAILURE_FILE,
    LIBRARY_NAME,
    is_intact,
    locate_core_folder,
    locate_shipped_folder,
)
from gradprobe.capture.ops.native.mirrored import find_mismatch
from gradprobe.errors import GradprobeError


def load_core() -> Any:
    """Return the library, which is built if there is none for this Python and PyTorch and no build has failed.

    Raises:
        GradprobeError: There is none and it cannot be built, or it is damaged.
    """
    module, why, _ = _load_any()
    folder = locate_core_folder()
    if module is None and not (folder / f"{LIBRARY_NAME}.so").exists() and not (folder / FAILURE_FILE).exists():
        build_at_first_use()
        _load.cache_clear()
        module, why = _load(folder)
    if module is None:
        raise GradprobeError(f"cannot observe operators: {why}; use level 'graph' or 'modes'")
    return module


@functools.cache
def use_core_if_built() -> None:
    """Let level "graph" use the library too, if there is one for this Python and PyTorch that loads. Builds nothing."""
    if REGISTRY.library is None:
        REGISTRY.library, _, _ = _load_any()


def core_status() -> tuple[bool, str]:
    """Return whether operators can be observed, and a sentence about it. Builds nothing."""
    module, why, folder = _load_any()
    if module is not None:
        return True, f"operators are observed by {folder / LIBRARY_NAME}.so"
    return False, f"operators are not observed: {why}"


def _load_any() -> tuple[Any, str, Path]:
    """Return the library that came with the installation, else the one that was built here, with its folder."""
    shipped = locate_shipped_folder()
    module, _ = _load(shipped)  # one that does not load, as on an older system, is no reason not to build
    if module is not None:
        return module, "", shipped
    folder = locate_core_folder()
    return *_load(folder), folder


@functools.cache
def _load(folder: Path) -> tuple[Any, str]:
    """Return the library in ``folder``, or None and the reason."""
    path = folder / f"{LIBRARY_NAME}.so"
    try:
        found, failed = path.exists(), (folder / FAILURE_FILE).exists()
        why = (folder / FAILURE_FILE).read_text(encoding="utf-8") if failed else ""
    except OSError as error:
        return None, f"cannot read {path}: {error}"
    if not found and failed:
        return None, f"the last build of the observer failed ({why}); try again with `gradprobe build-core --force`"
    if not found:
        return None, "the observer is not built for this Python and PyTorch; build it with `gradprobe build-core`"
    if not is_intact(path):
        return None, f"{path} is damaged; rebuild it with `gradprobe build-core --force`"
    loader = importlib.machinery.ExtensionFileLoader(LIBRARY_NAME, str(path))
    spec = importlib.util.spec_from_loader(LIBRARY_NAME, loader)
    try:
        if spec is None:
            raise ImportError(f"{path} is not a module")
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        return None, f"cannot load {path}: {error}; rebuild it with `gradprobe build-core --force`"
    mismatch = find_mismatch(module)
    if mismatch is not None:
        return None, f"cannot use {path}: {mismatch}; rebuild it with `gradprobe build-core --force`"
    return module, ""
