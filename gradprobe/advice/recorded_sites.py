"""Sites that recordings name, and the script that was recorded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gradprobe.analysis.findings.evidence import is_library
from gradprobe.stored_recordings import merge


def list_recorded_lines(recordings: Sequence[Path]) -> dict[str, set[int]]:
    """Return the lines of ``no_grad`` and ``inference_mode`` that ran, by file, without those of installed packages."""
    sites = merge(list(recordings)).sites
    lines: dict[str, set[int]] = {}
    for file, line, manager in zip(sites["file"], sites["line"], sites["manager"], strict=True):
        is_manager = manager in ("no_grad", "inference_mode")
        if is_manager and not is_library(file) and os.path.isfile(file):
            lines.setdefault(os.path.abspath(file), set()).add(int(line))
    return lines


def find_recorded_program(recordings: Sequence[Path]) -> str | None:
    """Return the script that was recorded, if it is one and any line of it is in the recording."""
    recording = merge(list(recordings))
    name = recording.environment.get("program")
    tables = (recording.sites, recording.transitions, recording.ops)
    files = dict.fromkeys(file for table in tables for file in table["file"] if isinstance(file, str))
    return next((os.path.abspath(f) for f in files if name and os.path.basename(f) == name and os.path.isfile(f)), None)
