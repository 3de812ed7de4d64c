"""The library that observes operators: where it is kept, and how it is loaded or, at first use, built."""

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

LIBRARY_NAME = "gradprobe_core"
FAILURE_FILE = "failed.txt"
"""Name of the file that says why the library could not be built."""
CHECKSUM_FILE = "sum.txt"
"""Name of the file with the library's checksum. A damaged library is not loaded: it would end the program."""
SOURCE = Path(__file__).parent / "observer.cpp"
_HEADERS = sorted(Path(__file__).parent.glob("*.h"))


def locate_core_folder() -> Path:
    """Return the folder, among PyTorch's extensions, of the library for this Python, PyTorch and source."""
    known = hashlib.sha256()
    for part in (torch.__version__, torch.version.git_version, sys.version, platform.machine()):
        known.update(f"{part}\n".encode())
    for path in (SOURCE, *_HEADERS):
        known.update(path.read_bytes())
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or Path(caches) / "torch_extensions"
    return Path(root) / f"gradprobe-{known.hexdigest()[:16]}"


def load_core() -> Any:
    """Return the library, which is built if there is none for this Python and PyTorch and no build has failed.

    Raises:
        GradprobeError: There is none and it cannot be built, or it is damaged.
    """
    folder = locate_core_folder()
    module, why = _load(folder)
    if module is None and not (folder / f"{LIBRARY_NAME}.so").exists() and not (folder / FAILURE_FILE).exists():
        from gradprobe.capture.ops.native.builder import build_at_first_use

        build_at_first_use()
        _load.cache_clear()
        module, why = _load(folder)
    if module is None:
        raise GradprobeError(f"cannot observe operators: {why}; use level 'graph' or 'modes'")
    return module


def core_status() -> tuple[bool, str]:
    """Return whether operators can be observed, and a sentence about it. Builds nothing."""
    module, why = _load(locate_core_folder())
    if module is not None:
        return True, f"operators are observed by {locate_core_folder() / LIBRARY_NAME}.so"
    return False, f"operators are not observed: {why}"


def compute_checksum(path: Path) -> str:
    """Return the checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_intact(path: Path) -> bool:
    """Return whether the library exists and has the checksum that it was built with."""
    try:
        return compute_checksum(path) == (path.parent / CHECKSUM_FILE).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return False


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
