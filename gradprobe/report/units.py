"""Numbers as people read them."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd


class FormattedNumber(str):
    """A number as people read it. ``value`` is the number itself: nanoseconds, bytes, a share of 1, a count."""

    __slots__ = ("value",)
    value: float

    def __new__(cls, text: str, value: float) -> FormattedNumber:
        figure = super().__new__(cls, text)
        figure.value = value
        return figure


def format_duration(ns: float) -> FormattedNumber:
    """A time in nanoseconds, with three significant digits and a fitting unit."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if abs(ns) >= size:
            return FormattedNumber(
                f"{ns / size:.3g} {unit}" if abs(ns) < 1000 * size else f"{ns / size:,.0f} {unit}", ns
            )
    return FormattedNumber(f"{ns:.0f} ns", ns)


def format_percentage(value: float) -> FormattedNumber:
    """A share as a percentage; what is not nothing does not read as 0."""
    return FormattedNumber("<0.1 %" if 0 < value < 0.001 else f"{value * 100:.1f} %", value)


def format_count(value: Any) -> str:
    """A count, or a dash where it was not measured."""
    return "-" if pd.isna(value) else FormattedNumber(f"{int(value):,}", int(value))


def format_bytes(value: Any) -> str:
    """A number of bytes, in powers of 1024 with three significant digits; a dash where it was not measured."""
    if pd.isna(value):
        return "-"
    for unit, bits in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if value >= 1 << bits:
            scaled = value / (1 << bits)
            return FormattedNumber(f"{scaled:.3g} {unit}" if scaled < 1000 else f"{scaled:,.0f} {unit}", value)
    return FormattedNumber(f"{int(value)} B", value)


def format_location(file: Any, line: Any) -> str:
    """``file:line``, from the working directory where that is shorter."""
    if pd.isna(file):
        return "(unknown)"
    try:
        relative = os.path.relpath(file)
    except ValueError:  # another drive
        relative = file
    shown = relative if len(relative) < len(file) else file
    shown = escape_unprintable(str(shown))
    return shown if pd.isna(line) else f"{shown}:{int(line)}"


def escape_unprintable(text: str) -> str:
    """``text`` on one line, without characters that steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def pluralize(number: int, noun: str, plural: str = "") -> str:
    """A number of things, the noun in the form that fits."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
