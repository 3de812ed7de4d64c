"""Reader for traces of torch.profiler, so that a recording of the same run can be merged into one."""

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
    """A trace of torch.profiler.

    Times in ``content`` are microseconds since ``base_ns``, which is wall-clock time in nanoseconds.
    """

    path: Path
    content: dict[str, Any]
    base_ns: int

    def check_overlap(self, began_ns: int, ended_ns: int) -> None:
        """Raise ``GradprobeError`` unless an event of the trace overlaps this range of wall-clock time."""
        events = [(e.get("ts"), e.get("dur", 0)) for e in self.content["traceEvents"] if e.get("ph") == "X"]
        spans = [
            (self.base_ns + start * 1000, self.base_ns + (start + took) * 1000)
            for start, took in events
            if _is_time(start) and _is_time(took)
        ]
        if not any(start <= ended_ns and end >= began_ns for start, end in spans):
            raise GradprobeError(
                f"cannot merge {self.path}: it has no time in common with the recording; name the trace of the recorded run"
            )


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _LATEST_US


def _reject_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number")


def read_torch_trace(path: Path) -> TorchTrace:
    """Read a trace, gzip-compressed or not; raise ``GradprobeError`` for any other file."""
    try:
        packed = path.read_bytes()
        data = gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed
        # Python also reads NaN and Infinity, which are not JSON and would make the merged trace unreadable.
        content = json.loads(data, parse_constant=_reject_constant)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise GradprobeError(f"cannot read {path}: damaged gzip file ({error}); {ADVICE}") from None
    except OSError as error:
        raise GradprobeError(f"cannot read {path}: {error.strerror}; {ADVICE}") from None
    except (ValueError, RecursionError) as error:
        raise GradprobeError(f"cannot read {path}: not valid JSON ({error}); {ADVICE}") from None
    events = content.get("traceEvents") if isinstance(content, dict) else None
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise GradprobeError(f"cannot read {path}: not a trace; {ADVICE}")
    base = content.get("baseTimeNanoseconds")
    if not isinstance(base, int) or isinstance(base, bool) or base.bit_length() > 63:
        raise GradprobeError(
            f"cannot merge {path}: it lacks its start time (baseTimeNanoseconds); {ADVICE} in PyTorch 2.4 or newer"
        )
    return TorchTrace(path, content, base)
