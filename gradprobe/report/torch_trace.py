"""A trace that torch.profiler wrote, read so that a recording of the same run can be put into it."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError

_ADVICE = "name a file that torch.profiler's export_chrome_trace wrote"


@dataclass(frozen=True)
class TorchTrace:
    """``plain`` is the file's JSON; its times are microseconds since ``base_ns``, nanoseconds on the wall clock."""

    path: Path
    plain: dict[str, Any]
    base_ns: int

    def check_overlap(self, began_ns: int, ended_ns: int) -> None:
        """Raises ``GradprobeError`` unless something in the trace ran in that time, on the wall clock."""
        spans = [
            (self.base_ns + event["ts"] * 1000, self.base_ns + (event["ts"] + event.get("dur", 0)) * 1000)
            for event in self.plain["traceEvents"]
            if event.get("ph") == "X" and isinstance(event.get("ts"), int | float)
        ]
        if not any(start <= ended_ns and end >= began_ns for start, end in spans):
            raise GradprobeError(
                f"{self.path} and the recording have no time in common; name the trace of the run that was recorded"
            )


def read(path: Path) -> TorchTrace:
    """The trace in a file, packed by gzip or not. Raises ``GradprobeError`` for a file that is none."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        plain = json.loads(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise GradprobeError(f"{path} is a damaged gzip file ({error}); {_ADVICE}") from None
    except OSError as error:
        raise GradprobeError(f"cannot read {path}: {error.strerror}; {_ADVICE}") from None
    except (ValueError, RecursionError) as error:
        raise GradprobeError(f"{path} is no JSON ({error}); {_ADVICE}") from None
    events = plain.get("traceEvents") if isinstance(plain, dict) else None
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise GradprobeError(f"{path} is no trace; {_ADVICE}")
    base = plain.get("baseTimeNanoseconds")
    if not isinstance(base, int) or isinstance(base, bool):
        raise GradprobeError(
            f"{path} does not say when it began (baseTimeNanoseconds); {_ADVICE}, of PyTorch 2.4 or newer"
        )
    return TorchTrace(path, plain, base)
