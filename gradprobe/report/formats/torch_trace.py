"""A trace that torch.profiler wrote, read so that a recording of the same run can be put into it."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError

_LATEST_US = 2**63
ADVICE = "name a file that torch.profiler's export_chrome_trace wrote"


@dataclass(frozen=True)
class TorchTrace:
    """``plain`` is the file's JSON; its times are microseconds since ``base_ns``, nanoseconds on the wall clock."""

    path: Path
    plain: dict[str, Any]
    base_ns: int

    def check_overlap(self, began_ns: int, ended_ns: int) -> None:
        """Raises ``GradprobeError`` unless something in the trace ran in that time, on the wall clock."""
        events = [(e.get("ts"), e.get("dur", 0)) for e in self.plain["traceEvents"] if e.get("ph") == "X"]
        spans = [
            (self.base_ns + start * 1000, self.base_ns + (start + took) * 1000)
            for start, took in events
            if _is_time(start) and _is_time(took)
        ]
        if not any(start <= ended_ns and end >= began_ns for start, end in spans):
            raise GradprobeError(
                f"{self.path} and the recording have no time in common; name the trace of the run that was recorded"
            )


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _LATEST_US


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def read_torch_trace(path: Path) -> TorchTrace:
    """The trace in a file, packed by gzip or not. Raises ``GradprobeError`` for a file that is none."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        # What is no number in JSON either, though Python reads it, would make the merged trace unreadable.
        plain = json.loads(content, parse_constant=_refuse)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise GradprobeError(f"{path} is a damaged gzip file ({error}); {ADVICE}") from None
    except OSError as error:
        raise GradprobeError(f"cannot read {path}: {error.strerror}; {ADVICE}") from None
    except (ValueError, RecursionError) as error:
        raise GradprobeError(f"{path} is no JSON ({error}); {ADVICE}") from None
    events = plain.get("traceEvents") if isinstance(plain, dict) else None
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise GradprobeError(f"{path} is no trace; {ADVICE}")
    base = plain.get("baseTimeNanoseconds")
    if not isinstance(base, int) or isinstance(base, bool) or base.bit_length() > 63:
        raise GradprobeError(
            f"{path} does not say when it began (baseTimeNanoseconds); {ADVICE}, of PyTorch 2.4 or newer"
        )
    return TorchTrace(path, plain, base)
