"""Compiles the native core, by the tools that PyTorch has for extensions."""

from __future__ import annotations

import contextlib
import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from gradprobe.capture.native.loading import FAILED, NAME, SOURCES, folder
from gradprobe.errors import GradprobeError


def build(*, force: bool = False) -> Path:
    """Builds the core for this Python and this PyTorch unless it is there; gives the file.

    Raises ``GradprobeError`` where it cannot be built, with the first error of the compiler.
    """
    place = folder()
    built = place / f"{NAME}.so"
    if built.is_file() and not force:
        return built
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise GradprobeError("the native core needs a Python with its global lock; level ops runs in Python here")
    from torch.utils import cpp_extension

    # A core that is half written must not be loaded, and one that is loaded must not be written over.
    scratch = place.with_name(f"{place.name}.building")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        with _scripts_on_path():
            cpp_extension.load(
                NAME,
                [str(path) for path in SOURCES],
                extra_cflags=["-O2"],
                build_directory=str(scratch),
                is_python_module=False,
            )
        place.mkdir(exist_ok=True)
        (scratch / built.name).replace(built)
    except (RuntimeError, OSError) as error:
        cause = _cause(error)
        with contextlib.suppress(OSError):
            place.mkdir(exist_ok=True)
            (place / FAILED).write_text(cause, encoding="utf-8")
        raise GradprobeError(f"the native core cannot be built here, and level ops runs in Python: {cause}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return built


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
