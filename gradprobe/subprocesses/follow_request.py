"""Request to record the child processes of a recorded program, passed in their environment."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from gradprobe._files import SUFFIX

FOLLOW_VARIABLE = "GRADPROBE_FOLLOW"
BOOT_FOLDER = str(Path(__file__).with_name("boot"))
"""Folder put on the path of child processes: Python imports the ``sitecustomize`` in it as it starts."""


@dataclass(frozen=True)
class FollowRequest:
    """Settings of the children's recordings. ``root`` is the folder from which gradprobe is imported.

    ``parent`` is the process that started this one, None if that was not recorded.
    """

    stem: str
    level: str
    include_torch: bool
    parent: int | None
    prefix: str = sys.prefix
    root: str = str(Path(__file__).parents[2])

    def path(self) -> Path:
        """Return the file in which the calling process records."""
        return Path(f"{self.stem}.{os.getpid()}{SUFFIX}")

    def variables(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the environment variables to set for child processes."""
        others = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part and part != BOOT_FOLDER]
        return {FOLLOW_VARIABLE: json.dumps(asdict(self)), "PYTHONPATH": os.pathsep.join([BOOT_FOLDER, *others])}


def make_stem(output: Path) -> str:
    """Return the path with which the names of the children's files begin, for a recording at ``output``."""
    return str(output.absolute().with_name(output.name.removesuffix(SUFFIX)))


def find_child_files(output: Path) -> list[Path]:
    """Return the files of the children of a recording at ``output``."""
    stem = Path(make_stem(output))
    found = stem.parent.glob(f"*{SUFFIX}")
    return sorted(path for path in found if _parse_process_id(path.name, stem.name) is not None)


def _parse_process_id(name: str, stem: str) -> int | None:
    middle = name.removeprefix(f"{stem}.").removesuffix(SUFFIX) if name.startswith(f"{stem}.") else ""
    return int(middle) if middle.isdecimal() else None
