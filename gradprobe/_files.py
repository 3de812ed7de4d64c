"""Files that gradprobe writes: never over existing ones unless asked, and completely or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from gradprobe.errors import GradprobeError

SUFFIX = ".gradprobe"
"""Suffix of recordings."""


def check_writable(path: Path, *, force: bool) -> None:
    """Raise ``GradprobeError`` unless a file can be created at ``path``, or with ``force`` replaced."""
    try:
        status = path.stat()
    except FileNotFoundError:
        status = None
    except OSError as error:
        raise GradprobeError(f"cannot write {path}: {error.strerror}; name another file") from None
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise GradprobeError(f"cannot write {path}: it is a folder; name a file in it")
    if not path.parent.is_dir():
        raise GradprobeError(f"cannot write {path}: there is no folder {path.parent}; create it first")
    if status is None:
        return
    if not stat.S_ISREG(status.st_mode):
        raise GradprobeError(f"cannot write {path}: it is not a regular file; name another file")
    if not force:
        raise GradprobeError(
            f"cannot write {path}: it exists already; name another file, or overwrite it with --force "
            "(in Python: overwrite=True)"
        )


def clear_path(path: Path, *, force: bool) -> None:
    """Check that a file can be created at ``path``; an existing one is refused, or with ``force`` removed."""
    check_writable(path, force=force)
    for file in (path, path.with_name(path.name + "-journal")):
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise GradprobeError(f"cannot overwrite {file}: {error.strerror}; name another file") from None


def write_atomically(path: Path, content: str | bytes | Iterable[str]) -> None:
    """Write ``content``, or its parts, completely or not at all: an existing file stays until the new one is on disk."""
    part = path.with_name(f".{path.name[:100]}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            for text in (content,) if isinstance(content, str | bytes) else content:
                file.write(text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace"))
        part.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise GradprobeError(f"cannot write {path}: {error.strerror}; free some space, or name another file") from None
