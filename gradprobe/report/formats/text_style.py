"""Style of text for a terminal: its width, and colours where there are any."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

DEFAULT_WIDTH = 100
"""Width of text that is not written to a terminal."""
MIN_WIDTH = 80
_UNLIMITED = 1 << 20

_CODES = {
    "title": "1", "dim": "2", "error": "1;31", "warning": "1;33", "note": "1;34", "marked": "1",
    "grad": "34", "no_grad": "33", "inference_mode": "32",
}  # fmt: skip


@dataclass(frozen=True)
class TextStyle:
    """Width of the text, whether it has colours, and whether everything is shown, which folded parts and columns are not.

    What is not written to a terminal has sentences of a width, and tables that may be wider if everything is shown.
    """

    width: int = DEFAULT_WIDTH
    has_colour: bool = False
    is_terminal: bool = False
    shows_all: bool = False
    whole: str = "Recording.to_html()"
    """What the reader calls to see all that is left out."""

    @property
    def table_width(self) -> int:
        """Width that tables must fit."""
        return _UNLIMITED if self.shows_all and not self.is_terminal else self.width

    def paint(self, text: str, role: str) -> str:
        """Return ``text`` in the colour of its role."""
        code = _CODES.get(role) if self.has_colour and text else None
        return text if code is None else f"\x1b[{code}m{text}\x1b[0m"


def choose_style(stream: IO[Any], environment: Mapping[str, str] = os.environ) -> TextStyle:
    """Return the style for a stream: the width of its terminal, and colours unless the terminal or the user wants none.

    https://no-color.org
    """
    if not stream.isatty():
        return TextStyle()
    width = max(shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns, MIN_WIDTH)
    wants_none = bool(environment.get("NO_COLOR")) or environment.get("TERM", "dumb") in ("dumb", "")
    return TextStyle(width, not wants_none, is_terminal=True)


def strip_colours(text: str) -> str:
    """Return ``text`` without colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", text)
