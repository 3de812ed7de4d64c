"""Every column of the SQLite schema has a comment, and none of the comments is stored in a recording."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import fields

from gradprobe.recording import schema
from gradprobe.recording.contents import Fold, OpFold, Site, Thread
from gradprobe.recording.op_rows import Operation

COLUMNS = {
    "meta": "key value",
    "sites": "id file line end_line function form internal",
    "names": "id text",
    "threads": "id name ident began_ns inherited",
    "blocks": "id count data",
    "folds": "manager site thread state error count total_ns self_ns nodes self_nodes hidden_ns hidden_nodes durations",
    "operations": "id op node module phase",
    "accounts": "id kind count data",
    "op_folds": "site operation thread sums",
    "notes": "kind text count",
}


def test_the_tables_and_columns_are_those_of_schema_2() -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(schema.CREATE_TABLES)
    found = {
        name: " ".join(column[1] for column in connection.execute(f"PRAGMA table_info({name})"))
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    }
    assert schema.SCHEMA_VERSION == 3
    assert found == COLUMNS
    assert "--" not in "".join(sql or "" for (sql,) in connection.execute("SELECT sql FROM sqlite_master"))


def test_the_fields_of_the_records_are_the_columns_of_their_tables() -> None:
    for table, record in (
        ("sites", Site),
        ("threads", Thread),
        ("folds", Fold),
        ("operations", Operation),
        ("op_folds", OpFold),
    ):
        assert [field.name for field in fields(record)] == COLUMNS[table].split()


def test_every_column_has_a_comment() -> None:
    lines = [line.strip() for line in schema._DOCUMENTED_TABLES.splitlines()]
    for columns in COLUMNS.values():
        for column in columns.split():
            described = [line for line in lines if re.match(rf"{column} (TEXT|INTEGER|BLOB)", line)]
            assert described, column
            # 'key' of meta is described above its table.
            assert all("-- " in line for line in described if column != "key"), described
