"""Build the observer of operators for this Python and this PyTorch; needs a C++ compiler."""

from __future__ import annotations

import argparse

from gradprobe.errors import GradprobeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``build-core``."""
    parser.add_argument("--force", action="store_true", help="build again even if it exists")


def execute(options: argparse.Namespace) -> int:
    """Build the observer and print its path."""
    try:
        from gradprobe.capture.ops.native.builder import build_core
    except ModuleNotFoundError as error:
        raise GradprobeError(
            f"cannot build the observer of operators: {error.name} is not installed; install PyTorch first"
        ) from None
    print(f"observer of operators: {build_core(force=options.force)}")
    return 0
