"""Show versions and the capabilities of this PyTorch, for a bug report."""

from __future__ import annotations

import argparse
import platform
import sqlite3
import sys
from importlib.metadata import PackageNotFoundError, version

from tabulate import tabulate

from gradprobe._switch import is_enabled
from gradprobe._version import __version__
from gradprobe.recording.schema import SCHEMA_VERSION
from gradprobe.recording.writer import DEFAULT_LIMIT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no arguments: ``debug`` takes none."""


def execute(options: argparse.Namespace) -> int:
    """Print the table."""
    rows = [
        ("gradprobe", __version__),
        ("python", f"{platform.python_version()} ({sys.executable})"),
        ("platform", platform.platform()),
        ("sqlite", sqlite3.sqlite_version),
        *((name, _get_version(name)) for name in ("torch", "pandas", "numpy", "tabulate", "tqdm")),
        ("recording schema", SCHEMA_VERSION),
        ("default limit", f"{DEFAULT_LIMIT:,} events"),
        ("enabled", "yes" if is_enabled() else "no (GRADPROBE=0)"),
    ]
    try:
        from gradprobe.capture.capabilities import list_capabilities
    except ModuleNotFoundError:
        rows.append(("capture", "unavailable: torch is not installed here"))
    else:
        rows += [(name, f"{'yes' if is_there else 'no'}: {meaning}") for name, is_there, meaning in list_capabilities()]
    print(tabulate(rows, tablefmt="plain", disable_numparse=True))
    return 0


def _get_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
