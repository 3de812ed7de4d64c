"""A run of the user's program and what was seen of it, as it is passed between processes."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gradprobe._switch import RECORD_VARIABLE
from gradprobe.subprocesses.follow_request import BOOT_FOLDER

REQUEST_VARIABLE = "GRADPROBE_ADVISE"
STATE_FILE, LINES_FILE, TIMES_FILE, RECORDING_STEM = "state.json", "lines.jsonl", "times.jsonl", "run"
MODULES_FILE = "modules.json"
FIXED_VARIABLES = {RECORD_VARIABLE: "", "PYTHONHASHSEED": "0"}
"""Variables that make runs comparable: a recording by the environment would make some of them slower."""


@dataclass
class RunRequest:
    """A program and how to run it.

    Attributes:
        words: The script and its arguments; with ``is_pytest``, the arguments of pytest.
        own: Files and folders of the program: what is traced and whose state counts.
        texts: Changed text of some files, by absolute path.
        folder: Where results are written.
        is_watched: Whether lines, survivors and operators are recorded.
        is_timed: Whether the texts have markers of blocks to time.
        edges: File and first line of each function whose results are hashed.
        cwd: The folder to run in.
        is_pytest: Whether to run pytest instead of a script.
        root: The folder from which gradprobe is imported.
    """

    words: list[str]
    own: list[str]
    folder: str
    texts: dict[str, str] = field(default_factory=dict)
    is_watched: bool = False
    is_timed: bool = False
    edges: list[tuple[str, int]] = field(default_factory=list)
    cwd: str = ""
    is_pytest: bool = False
    root: str = str(Path(__file__).parents[2])

    def to_json(self) -> str:
        """Return the request as one line."""
        return json.dumps(asdict(self))

    def variables(self) -> dict[str, str]:
        """Return the environment variables by which the processes that the program starts find the request."""
        others = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part not in ("", BOOT_FOLDER)]
        return {REQUEST_VARIABLE: self.to_json(), "PYTHONPATH": os.pathsep.join([BOOT_FOLDER, *others])}

    @staticmethod
    def from_json(text: str) -> RunRequest:
        """Return the request that ``to_json`` wrote."""
        return RunRequest(**json.loads(text))


@dataclass
class Outcome:
    """Result of a run: all that can be seen of a run from outside, and the state that it left."""

    lateness: str
    """Why the run has no end, in words: it took too long, or was not started; "" if it has one."""
    code: int
    error: str
    stdout: str
    stderr: str
    state: dict[str, tuple[str, str]]
    """Hashes of tensors and of plain values, by variable."""
    process: dict[str, str]
    """Random generators, modes and defaults."""
    seconds: float
    tests: dict[str, str]
    """The result of each test, if it was a test run."""
    folder: Path
    modules: list[str] = field(default_factory=list)
    """Source files of the modules that were imported in the end, as far as it is known."""

    @classmethod
    def without_end(cls, lateness: str, folder: Path) -> Outcome:
        """Return the outcome of a run that did not end, for a reason in words."""
        return cls(lateness, -1, "", "", "", {}, {}, 0.0, {}, folder)

    @property
    def is_late(self) -> bool:
        """True if the run has no end."""
        return self.lateness != ""


def read_modules(folder: Path) -> list[str]:
    """Return the source files of the modules that the process wrote, or nothing if it did not get so far."""
    file = folder / MODULES_FILE
    return list(json.loads(file.read_text())) if file.exists() else []


def read_state(folder: Path) -> dict[str, Any]:
    """Return what the process wrote about its end, or an empty dict if it did not get so far."""
    file = folder / STATE_FILE
    return dict(json.loads(file.read_text())) if file.exists() else {}
