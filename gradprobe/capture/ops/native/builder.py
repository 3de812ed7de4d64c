"""Build of the native core with ``torch.utils.cpp_extension``."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gradprobe.capture.ops.native.loader import (
    CHECKSUM_FILE,
    EXTENSION_NAME,
    FAILURE_FILE,
    SOURCES,
    compute_checksum,
    is_intact,
    locate_core_folder,
)
from gradprobe.errors import GradprobeError


def build_core(*, force: bool = False) -> Path:
    """Build the core for this Python and this PyTorch unless it exists, and return its file.

    Args:
        force: Build it even if it exists. Default: False.

    Raises:
        GradprobeError: The core cannot be built; the text contains the first error of the compiler.
    """
    folder = locate_core_folder()
    built = folder / f"{EXTENSION_NAME}.so"
    if is_intact(built) and not force:
        return built
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise GradprobeError(
            "cannot build the native core: it needs a Python with the GIL; level ops runs in Python here"
        )
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise GradprobeError(f"cannot build the native core: no C++ compiler ({compiler}); install one, or set CXX")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Each build has its own folder: other builds may run, and a loaded core must not be overwritten.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            compiled = _compile(Path(scratch))
            digest = Path(scratch, CHECKSUM_FILE)
            digest.write_text(compute_checksum(compiled), encoding="ascii")
            compiled.replace(built)
            digest.replace(folder / CHECKSUM_FILE)
        (folder / FAILURE_FILE).unlink(missing_ok=True)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        cause = _find_cause(error)
        with contextlib.suppress(OSError):
            (folder / FAILURE_FILE).write_text(cause, encoding="utf-8")
        raise GradprobeError(f"cannot build the native core: {cause}; level ops runs in Python") from None
    return built


def _compile(scratch: Path) -> Path:
    from torch.utils import cpp_extension

    with _scripts_on_path():
        cpp_extension.load(
            EXTENSION_NAME,
            [str(path) for path in SOURCES],
            extra_cflags=["-O2"],
            build_directory=str(scratch),
            is_python_module=False,
        )
    return scratch / f"{EXTENSION_NAME}.so"


@contextlib.contextmanager
def _scripts_on_path() -> Iterator[None]:
    """Prepend this Python's scripts folder to PATH, because its environment may not be activated."""
    before = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _find_cause(error: Exception) -> str:
    """Return the compiler's first error without its file's folder, or the first line of PyTorch's text."""
    lines = str(error).splitlines() or [repr(error)]
    return next((line.rsplit(os.sep, 1)[-1].strip() for line in lines if "error:" in line), lines[0])
