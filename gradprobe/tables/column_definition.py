"""Definition of a column and of a table, and the usual kinds of columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Dtype = Literal["bool", "int64", "Int64", "float64", "str", "object"]
"""pandas dtype of a column; ``str`` is the default dtype of pandas for text."""

Level = Literal["", "modes", "graph", "ops"]
"""Lowest recording level that fills a column; empty if levels do not apply."""


@dataclass(frozen=True)
class Column:
    """Column of a table."""

    name: str
    dtype: Dtype
    meaning: str
    unit: str = ""
    level: Level = "modes"
    choices: tuple[str, ...] = ()
    """Values of the column, if they are few."""
    is_optional: bool = False
    """True if a ``str`` or ``float64`` column may lack values; an ``Int64`` column always may."""
    json: Mapping[str, Any] = field(default_factory=lambda: {"minimum": 0})
    """Keywords of the JSON schema of a numeric or ``object`` column, in addition to its type."""

    @property
    def can_be_missing(self) -> bool:
        """True if a row may lack a value: NaN or NA in the DataFrame, null in JSON."""
        return self.is_optional or self.dtype == "Int64"


@dataclass(frozen=True)
class Table:
    """Table: its name, the description of a row, and its columns in order."""

    name: str
    row: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> list[str]:
        """Names of the columns in order."""
        return [column.name for column in self.columns]

    def __getitem__(self, name: str) -> Column:
        """Return the column with this name."""
        return next(column for column in self.columns if column.name == name)


def text_column(name: str, meaning: str, *, choices: tuple[str, ...] = (), level: Level = "modes") -> Column:
    """Return a column of text that every row has."""
    return Column(name, "str", meaning, choices=choices, level=level)


def optional_text_column(name: str, meaning: str, *, level: Level = "modes") -> Column:
    """Return a column of text that a row may lack."""
    return Column(name, "str", meaning, is_optional=True, level=level)


def flag_column(name: str, meaning: str) -> Column:
    """Return a column of booleans."""
    return Column(name, "bool", meaning)


def count_column(name: str, meaning: str, *, level: Level = "modes", unit: str = "") -> Column:
    """Return a column of numbers that every row has."""
    return Column(name, "int64", meaning, unit=unit, level=level)


def optional_count_column(name: str, meaning: str, *, level: Level = "modes", unit: str = "") -> Column:
    """Return a column of numbers that a row may lack."""
    return Column(name, "Int64", meaning, unit=unit, level=level)


def size_column(name: str, meaning: str, *, level: Level = "ops") -> Column:
    """Return a column of sizes that a row may lack."""
    return Column(name, "Int64", meaning, unit="bytes", level=level)


def time_column(name: str, meaning: str) -> Column:
    """Return a column of nanoseconds."""
    return Column(name, "int64", meaning, unit="ns")


FILE = optional_text_column("file", "Source file; missing if it is not known.")
LINE = optional_count_column("line", "Line of the user's code in that file; missing if it is not known.")
FUNCTION = optional_text_column(
    "function", "Qualified name of the function that contains the line; missing if it is not known."
)
SOURCE = (FILE, LINE, FUNCTION)
PROCESS = count_column("process", "Process id.")
RANK = optional_count_column("rank", "Rank in the distributed job; missing outside of one.")
