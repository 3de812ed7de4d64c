"""Messages of the command line on standard error."""

from __future__ import annotations

import sys

from gradprobe.report.units import escape_unprintable


def print_message(text: str) -> None:
    """Print ``text`` in one line on standard error, if that exists, with control characters escaped."""
    if sys.stderr is not None:
        print(escape_unprintable(text), file=sys.stderr)


def print_text(text: str) -> None:
    """Print a report on standard output, with what its encoding does not have as escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
