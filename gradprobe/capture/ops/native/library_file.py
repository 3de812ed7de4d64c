"""The file of the library that observes operators: its place, its checksum, and the reason why there is none."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import sys
from pathlib import Path

import torch

LIBRARY_NAME = "gradprobe_core"
FAILURE_FILE = "failed.txt"
"""Name of the file that says why the library could not be built."""
CHECKSUM_FILE = "sum.txt"
"""Name of the file with the library's checksum. A damaged library is not loaded: it would end the program."""
SOURCE = Path(__file__).parent / "observer.cpp"
_HEADERS = sorted(Path(__file__).parent.glob("*.h"))


def locate_core_folder() -> Path:
    """Return the folder, among PyTorch's extensions, of the library for this Python, PyTorch and source."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or Path(caches) / "torch_extensions"
    return Path(root) / f"gradprobe-{_digest()[:16]}"


@functools.cache
def _digest() -> str:
    # Once per process: the file that it has loaded stays the right one for it, also where the sources are replaced.
    known = hashlib.sha256()
    for part in (torch.__version__, torch.version.git_version, sys.version, platform.machine()):
        known.update(f"{part}\n".encode())
    for path in (SOURCE, *_HEADERS):
        known.update(path.read_bytes())
    return known.hexdigest()


def compute_checksum(path: Path) -> str:
    """Return the checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_intact(path: Path) -> bool:
    """Return whether the library exists and has the checksum that it was built with."""
    try:
        return compute_checksum(path) == (path.parent / CHECKSUM_FILE).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return False
