"""Runs the command line as a user does, in processes of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

# Enough for a busy machine; reaching it means a deadlock.
PATIENCE_S = 120


def python(
    *words: str, cwd: Path, stdin: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """The end of ``python WORDS``."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        input=stdin.encode(),
        env=env,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )


def gradprobe(
    *words: str, cwd: Path, stdin: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """The end of ``python -m gradprobe WORDS``."""
    return python("-m", "gradprobe", *words, cwd=cwd, stdin=stdin, env=env)
