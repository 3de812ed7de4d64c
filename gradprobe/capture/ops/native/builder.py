"""Build of the library that observes operators, by the C++ compiler of this machine."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from gradprobe.capture.ops.native.library_file import (
    CHECKSUM_FILE,
    FAILURE_FILE,
    LIBRARY_NAME,
    SOURCE,
    compute_checksum,
    is_intact,
    locate_core_folder,
)
from gradprobe.errors import GradprobeError


def build_at_first_use() -> None:
    """Build the library because a program asks for operators, and say so on stderr with the time that it takes.

    A failure is remembered: the reason is in the error of each later attempt to load the library.
    """
    started = time.perf_counter()
    print(
        f"gradprobe: building the observer of operators for torch {torch.__version__}; once for this PyTorch, "
        "about a minute",
        file=sys.stderr,
        flush=True,
    )
    try:
        build_core()
    except GradprobeError as error:
        print(f"gradprobe: {error}", file=sys.stderr, flush=True)
    else:
        print(f"gradprobe: built in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def build_core(*, force: bool = False) -> Path:
    """Build the library for this Python and this PyTorch on this machine unless it exists, and return its file.

    Args:
        force: Build it even if it exists. Default: False.

    Raises:
        GradprobeError: It cannot be built; the text contains the first error of the compiler.
    """
    folder = locate_core_folder()
    built = folder / f"{LIBRARY_NAME}.so"
    if is_intact(built) and not force:
        return built
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise GradprobeError("cannot build the observer of operators: it needs a Python with the GIL")
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not compiler or shutil.which(compiler[0]) is None:
            raise OSError(f"no C++ compiler ({' '.join(compiler)}); install one, or set CXX")
        with _only_build(folder):
            if is_intact(built) and not force:
                return built  # another process has built it meanwhile
            # A folder of its own: a library that a process has loaded must not be overwritten.
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                compiled = Path(scratch, built.name)
                subprocess.run(_command(compiler, compiled), check=True, capture_output=True, text=True)
                digest = Path(scratch, CHECKSUM_FILE)
                digest.write_text(compute_checksum(compiled), encoding="ascii")
                compiled.replace(built)
                digest.replace(folder / CHECKSUM_FILE)
        (folder / FAILURE_FILE).unlink(missing_ok=True)
    except (OSError, subprocess.SubprocessError) as error:
        cause = _find_cause(error)
        with contextlib.suppress(OSError):
            (folder / FAILURE_FILE).write_text(cause, encoding="utf-8")
        raise GradprobeError(f"cannot build the observer of operators: {cause}") from None
    return built


def _command(compiler: list[str], output: Path) -> list[str]:
    """Return the command that compiles the library into ``output``."""
    root = Path(torch.__file__).parent
    headers = [root / "include", root / "include/torch/csrc/api/include", Path(sysconfig.get_path("include"))]
    return [
        *compiler,
        *("-O2", "-std=c++20", "-fPIC", "-shared", "-fvisibility=hidden", "-w"),
        # Some of PyTorch's classes have more members in a build without NDEBUG than in its wheels.
        "-DNDEBUG",
        f"-DTORCH_EXTENSION_NAME={LIBRARY_NAME}",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        *(flag for folder in headers for flag in ("-isystem", str(folder))),
        str(SOURCE),
        *("-o", str(output), f"-L{root / 'lib'}", "-ltorch_python", "-ltorch_cpu", "-lc10"),
        f"-Wl,-rpath,{root / 'lib'}",
    ]


@contextlib.contextmanager
def _only_build(folder: Path) -> Iterator[None]:
    """Wait until no other process builds in ``folder``, and keep others waiting."""
    try:
        import fcntl
    except ImportError:  # another system: the replacement of a finished file is safe by itself
        yield
        return
    with open(folder / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _find_cause(error: Exception) -> str:
    """Return the compiler's first error without its file's folder, or the first line of another error's text."""
    text = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
    lines = text.splitlines() or [repr(error)]
    return next((line.rsplit(os.sep, 1)[-1].strip() for line in lines if "error:" in line), lines[0])
