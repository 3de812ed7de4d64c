"""Builds the native core of level ops for this Python and this PyTorch, which needs a C++ compiler and ninja."""

from __future__ import annotations

import argparse

from gradprobe.errors import GradprobeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="build it even if it is there")


def execute(options: argparse.Namespace) -> int:
    try:
        from gradprobe.capture.ops.native.builder import build_core
    except ModuleNotFoundError as error:
        raise GradprobeError(f"the native core is built against PyTorch; install it first ({error})") from None
    print(f"level ops has its native core: {build_core(force=options.force)}")
    return 0
