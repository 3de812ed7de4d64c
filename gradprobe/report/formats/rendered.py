"""Options of the renderers, and their result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gradprobe.report.formats.text_style import TextStyle


@dataclass(frozen=True)
class RenderOptions:
    """Options of a report, each for the formats that know it.

    ``stem`` begins the names of the files beside the report; it is None if the report is not written to a file.
    """

    top: int | None = None
    """Maximum number of rows per table; None for the default of the format."""
    style: TextStyle = field(default_factory=TextStyle)
    """Style of the format ``terminal``."""
    charts: str | None = None
    """Format of chart files beside the report, ``svg`` or ``png``, for formats that cannot embed charts."""
    depth: int | None = None
    """Depth of modules that the picture of the flow begins with; None to let it be chosen."""
    torch_trace: Path | None = None
    """Trace that torch.profiler wrote of the same run, to be merged into."""
    stem: str | None = None
    suffix: str | None = None
    """Suffix of the report's own file name, out of those of its format."""


@dataclass(frozen=True)
class TextParts(Iterable[str]):
    """Text that is made while it is written, because there may be hundreds of megabytes of it."""

    make: Callable[[], Iterator[str]]

    def __iter__(self) -> Iterator[str]:
        return self.make()

    def __str__(self) -> str:
        return "".join(self)


Content = str | bytes | TextParts


@dataclass(frozen=True)
class Rendered:
    """A rendered report and its ``attachments``: the files that belong beside it, by name."""

    body: str | bytes
    attachments: Mapping[str, Content] = field(default_factory=dict)
