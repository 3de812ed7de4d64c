"""Validation of files that may be damaged or hostile: SQLite stores values of any type in any column."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from gradprobe.recording.contents import Fold, OpFold, Site, Thread
from gradprobe.recording.durations import MAX_DURATION_CLASS
from gradprobe.recording.op_rows import PHASES, OpCounts, Operation

Record = Site | Thread | Fold | Operation | OpFold

_TYPES = {"int": int, "str": str, "bool": bool, "int | None": int | None, "str | None": str | None}


def refuse_computed_tables(connection: sqlite3.Connection) -> None:
    """Raise ``ValueError`` for anything but plain tables.

    Reading a view or a computed column runs what the file says, for as long as it says.
    """
    for kind, name, statement in connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall():
        is_table = kind == "table" and str(statement).upper().startswith("CREATE TABLE")
        if not is_table and not (kind == "index" and statement is None):
            raise ValueError(f"{name} is not a plain table")
        quoted = str(name).replace('"', '""')
        if any(column[6] for column in connection.execute(f'PRAGMA table_xinfo("{quoted}")')):
            raise ValueError(f"{name} has computed columns")


def check_records(records: Iterable[Record]) -> None:
    """Raise ``TypeError`` if a field of a record is not of its declared type."""
    for record in records:
        for f in fields(record):
            value = getattr(record, f.name)
            if not isinstance(value, _TYPES.get(str(f.type), dict | list)):
                raise TypeError(f"{f.name} of a {type(record).__name__.lower()} is {type(value).__name__}")


def check_operations(operations: Sequence[Operation], op_folds: Sequence[OpFold]) -> None:
    """Raise ``ValueError`` for an operation of an unknown phase, or a sum of operators of another length."""
    if any(not 0 <= operation.phase < len(PHASES) for operation in operations) or any(
        len(fold.sums) != 1 + len(OpCounts._fields) for fold in op_folds
    ):
        raise ValueError("an operation or its sums are not as gradprobe writes them")


def read_meta(rows: Iterable[tuple[Any, ...]]) -> dict[str, Any]:
    """Return the table ``meta``. Raises ``TypeError`` or ``ValueError`` for values of other types."""
    meta = {str(key): json.loads(value) for key, value in rows}
    for key, value in meta.items():
        expected = dict if key == "environment" else int
        if not isinstance(value, expected):
            raise TypeError(f"{key} is {type(value).__name__}")
        if isinstance(value, int):
            check_size(value)
    environment = meta.get("environment", {})
    for key in ("process", "parent", "rank"):
        if environment.get(key) is not None and not isinstance(environment[key], int):
            raise TypeError(f"{key} is {type(environment[key]).__name__}")
        check_size(environment.get(key) or 0)
    return meta


def read_durations(text: str) -> dict[int, int]:
    """Return the number of blocks by duration class from its JSON."""
    durations = {int(key): check_size(count) for key, count in json.loads(text).items()}
    if any(not 0 <= duration <= MAX_DURATION_CLASS for duration in durations):
        raise ValueError("a class of durations is out of range")
    return durations


def check_size(value: Any) -> int:
    """Return ``value`` as an integer. Raises ``ValueError`` if it has more than 63 bits.

    JSON integers are unbounded; those of SQLite and of the tables have 64 bits.
    """
    number = int(value)
    if number.bit_length() > 63:
        raise ValueError("a number is out of range")
    return number
