"""What renderers are asked for, and what they give back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class RenderOptions:
    """``stem`` begins the names of files beside the report; None where the report goes to no file."""

    top: int | None = None
    """Rows per table; None where the format may choose."""
    charts: str | None = None
    """``svg`` or ``png``: charts as files beside the report, in a format that cannot hold them."""
    merge: Path | None = None
    """A trace that torch.profiler wrote of the same run."""
    stem: str | None = None
    suffix: str | None = None
    """What the name of the report's own file ends in, of the suffixes of its format."""


@dataclass(frozen=True)
class Rendered:
    """A report, and by their names the files that belong beside it."""

    body: str | bytes
    beside: Mapping[str, str | bytes] = field(default_factory=dict)
