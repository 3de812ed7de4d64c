"""Explain a line, a parameter or a module of a recording: how gradient gets there or does not. Works without torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from gradprobe.commands.messages import print_text
from gradprobe.stored_recordings import merge


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``why``."""
    parser.add_argument("files", nargs="+", type=Path, metavar="RECORDING", help="recordings to ask, one per process")
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="line as FILE:LINE, or the dotted name of a parameter or module, of which the last parts are enough",
    )


def execute(options: argparse.Namespace) -> int:
    """Print the story of the target."""
    print_text(f"{merge(options.files).why(options.target)}\n")
    return 0
