"""Formatting of numbers, source locations and names for reports."""

from __future__ import annotations

import os
from typing import Any

MISSING = "-"
"""Cell of a table for a value that was not measured or does not exist."""


class FormattedNumber(str):
    """A formatted number that keeps its ``value``: nanoseconds, bytes, a fraction of 1, or a count."""

    __slots__ = ("value",)
    value: float

    def __new__(cls, text: str, value: float) -> FormattedNumber:
        formatted = super().__new__(cls, text)
        formatted.value = value
        return formatted


class FormattedLocation(str):
    """A formatted source location: where there is no room for it, its end is what matters."""

    __slots__ = ()


def _is_missing(value: Any) -> bool:
    import pandas  # not at the top: messages of the command line need none of it, and it takes half a second

    return bool(pandas.isna(value))


def format_duration(ns: float) -> FormattedNumber:
    """Format nanoseconds with three significant digits in a fitting unit."""
    for unit, scale in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if abs(ns) >= scale:
            text = f"{ns / scale:.3g} {unit}" if abs(ns) < 1000 * scale else f"{ns / scale:,.0f} {unit}"
            return FormattedNumber(text, ns)
    return FormattedNumber(f"{ns:.0f} ns", ns)


def format_percentage(value: float) -> FormattedNumber:
    """Format a fraction of 1 as a percentage; a small positive one never reads as 0."""
    return FormattedNumber("<0.1 %" if 0 < value < 0.001 else f"{value * 100:.1f} %", value)


def format_count(value: Any) -> str:
    """Format a count, or return a dash if it was not measured."""
    return MISSING if _is_missing(value) else FormattedNumber(f"{int(value):,}", int(value))


def format_bytes(value: Any) -> str:
    """Format bytes in powers of 1024 with three significant digits, or return a dash if not measured."""
    if _is_missing(value):
        return MISSING
    for unit, bits in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if value >= 1 << bits:
            scaled = value / (1 << bits)
            return FormattedNumber(f"{scaled:.3g} {unit}" if scaled < 1000 else f"{scaled:,.0f} {unit}", value)
    return FormattedNumber(f"{int(value)} B", value)


def format_location(file: Any, line: Any) -> str:
    """Format ``file:line``, relative to the working directory if that is shorter."""
    if _is_missing(file):
        return "(unknown)"
    try:
        relative = os.path.relpath(file)
    except ValueError:  # another drive
        relative = file
    shown = relative if len(relative) < len(file) else file
    shown = escape_unprintable(str(shown))
    return FormattedLocation(shown if _is_missing(line) else f"{shown}:{int(line)}")


def format_text(value: object) -> str:
    """Format a name or any other text as a cell; None, NaN and the empty text become a dash."""
    return MISSING if value is None or value == "" or value != value else escape_unprintable(str(value))


def escape_unprintable(text: str) -> str:
    """Return ``text`` on one line, with the characters escaped that would steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def truncate(text: str, width: int) -> str:
    """Return ``text``, or its beginning and an ellipsis if it is longer than ``width``."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def truncate_start(text: str, width: int) -> str:
    """Return ``text``, or an ellipsis and its end if it is longer than ``width``."""
    return text if len(text) <= width else f"...{text[3 - width :]}"
