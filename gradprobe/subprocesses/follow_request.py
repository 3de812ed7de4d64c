"""What is asked of the processes that a recorded program starts, as they find it in their environment."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from gradprobe.recording.sqlite_file import SUFFIX

FOLLOW_VARIABLE = "GRADPROBE_FOLLOW"
BOOT_FOLDER = str(Path(__file__).with_name("boot"))
"""A folder that is on the path of started processes for the one file in it, which Python imports as it starts."""


@dataclass(frozen=True)
class FollowRequest:
    """Where and how they are to be recorded. ``root`` is where gradprobe itself is imported from."""

    stem: str
    level: str
    include_torch: bool
    parent: int
    prefix: str = sys.prefix
    root: str = str(Path(__file__).parents[2])

    def path(self) -> Path:
        """The file of the process that asks."""
        return Path(f"{self.stem}.{os.getpid()}{SUFFIX}")

    def variables(self, environment: Mapping[str, str]) -> dict[str, str]:
        """What to set in the environment of those that are started."""
        others = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part and part != BOOT_FOLDER]
        return {FOLLOW_VARIABLE: json.dumps(asdict(self)), "PYTHONPATH": os.pathsep.join([BOOT_FOLDER, *others])}


def make_stem(output: Path) -> str:
    """What the names of the children's files begin with, of a recording at ``output``."""
    return str(output.absolute().with_name(output.name.removesuffix(SUFFIX)))


def find_child_files(output: Path) -> list[Path]:
    """The files of the children of a recording at ``output``."""
    stem = Path(make_stem(output))
    found = stem.parent.glob(f"*{SUFFIX}")
    return sorted(path for path in found if _number(path.name, stem.name) is not None)


def _number(name: str, stem: str) -> int | None:
    middle = name.removeprefix(f"{stem}.").removesuffix(SUFFIX) if name.startswith(f"{stem}.") else ""
    return int(middle) if middle.isdecimal() else None
