"""Compiles the native core, by the tools that PyTorch has for extensions."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gradprobe.capture.ops.native.loader import FAILED, NAME, SOURCES, SUM, folder, is_whole, sum_of
from gradprobe.errors import GradprobeError


def build_core(*, force: bool = False) -> Path:
    """Builds the core for this Python and this PyTorch unless it is there; gives the file.

    Raises ``GradprobeError`` where it cannot be built, with the first error of the compiler.
    """
    place = folder()
    built = place / f"{NAME}.so"
    if is_whole(built) and not force:
        return built
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise GradprobeError("the native core needs a Python with its global lock; level ops runs in Python here")
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise GradprobeError(f"there is no C++ compiler ({compiler}); install one, or name yours in the variable CXX")
    try:
        place.mkdir(parents=True, exist_ok=True)
        # Each build has a folder of its own: others may run, and a core that is loaded must not be written over.
        with tempfile.TemporaryDirectory(dir=place) as scratch:
            made = _compiled(Path(scratch))
            digest = Path(scratch, SUM)
            digest.write_text(sum_of(made), encoding="ascii")
            made.replace(built)
            digest.replace(place / SUM)
        (place / FAILED).unlink(missing_ok=True)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        cause = _cause(error)
        with contextlib.suppress(OSError):
            (place / FAILED).write_text(cause, encoding="utf-8")
        raise GradprobeError(f"the native core cannot be built here, and level ops runs in Python: {cause}") from None
    return built


def _compiled(scratch: Path) -> Path:
    from torch.utils import cpp_extension

    with _scripts_on_path():
        cpp_extension.load(
            NAME,
            [str(path) for path in SOURCES],
            extra_cflags=["-O2"],
            build_directory=str(scratch),
            is_python_module=False,
        )
    return scratch / f"{NAME}.so"


@contextlib.contextmanager
def _scripts_on_path() -> Iterator[None]:
    """Lets ninja be found that is installed beside this Python, in an environment that nobody has activated."""
    before = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _cause(error: Exception) -> str:
    """The first error of the compiler, without the folder of the file that it is in; else what PyTorch says."""
    lines = str(error).splitlines() or [repr(error)]
    return next((line.rsplit(os.sep, 1)[-1].strip() for line in lines if "error:" in line), lines[0])
