"""The file of the library that observes operators: its places, its checksum, and the reason why there is none.

As a script it prints the folder of the library that was built on this machine, which ``make wheels`` packs.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import sysconfig
from pathlib import Path

import torch

LIBRARY_NAME = "gradprobe_core"
FAILURE_FILE = "failed.txt"
"""Name of the file that says why the library could not be built."""
CHECKSUM_FILE = "sum.txt"
"""Name of the file with the library's checksum. A damaged library is not loaded: it would end the program."""
SOURCE = Path(__file__).parent / "observer.cpp"
SHIPPED = Path(__file__).parent / "shipped"
"""Folder in which wheels bring libraries that were built elsewhere; a source tree has none."""
_HEADERS = sorted(Path(__file__).parent.glob("*.h"))


def locate_shipped_folder() -> Path:
    """Return the folder of the library that came with the installation, which exists if it is right for this PyTorch."""
    return SHIPPED / _folder_name()


def locate_core_folder() -> Path:
    """Return the folder, among PyTorch's extensions, of the library that is built on this machine."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or Path(caches) / "torch_extensions"
    return Path(root) / _folder_name()


@functools.cache
def _folder_name() -> str:
    """Return a name that is the same for the same source, PyTorch, kind of Python and machine."""
    # Once per process: the file that it has loaded stays the right one for it, also where the sources are replaced.
    known = hashlib.sha256()
    python = sysconfig.get_config_var("SOABI")  # the same for all releases of a minor version, as for other extensions
    for part in (torch.__version__, torch.version.git_version, python, platform.machine()):
        known.update(f"{part}\n".encode())
    for path in (SOURCE, *_HEADERS):
        known.update(path.read_bytes())
    return f"gradprobe-{known.hexdigest()[:16]}"


def compute_checksum(path: Path) -> str:
    """Return the checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_intact(path: Path) -> bool:
    """Return whether the library exists and has the checksum that it was built with."""
    try:
        return compute_checksum(path) == (path.parent / CHECKSUM_FILE).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return False


if __name__ == "__main__":
    print(locate_core_folder())
