"""SQLite file of a recording: written as it grows, and read.

Every batch is one transaction of a rollback journal, so a process that is killed leaves a readable file that misses at
most the batch under way. Nothing is synchronised to the disk: a recording survives its process, but not a power cut.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from gradprobe._files import SUFFIX
from gradprobe.errors import GradprobeError, RecordingError
from gradprobe.recording import sqlite_fork
from gradprobe.recording.contents import Batch, Contents, Fold, OpFold, Site, Thread
from gradprobe.recording.events import EventBlock
from gradprobe.recording.op_rows import Operation, concatenate, pack_rows, unpack_rows
from gradprobe.recording.schema import APPLICATION_ID, CREATE_TABLES, SCHEMA_VERSION
from gradprobe.recording.validation import (
    Record,
    check_operations,
    check_records,
    check_size,
    read_durations,
    read_meta,
    refuse_computed_tables,
)


class Store:
    """Recording being written; in memory if ``path`` is None. Only one thread may write at a time."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is not None and not path.parent.is_dir():
            raise GradprobeError(f"cannot record to {path}: there is no folder {path.parent}; create it first")
        sqlite_fork.check_usable()
        with sqlite_fork.lock:
            self._open(path)

    def _open(self, path: Path | None) -> None:
        try:
            self._connection = sqlite3.connect(
                ":memory:" if path is None else path, isolation_level=None, check_same_thread=False, timeout=0.2
            )
            self._connection.execute("PRAGMA synchronous = OFF")
            self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            self._connection.executescript(f"BEGIN; {CREATE_TABLES} COMMIT;")
        except sqlite3.Error as error:
            raise GradprobeError(f"cannot record to {path}: {error}; name a file that can be written") from None

    def write(self, batch: Batch) -> None:
        """Add ``batch`` as one transaction. Raises ``sqlite3.Error``, and adds nothing of it, if that fails."""
        with sqlite_fork.lock:
            self._write(batch)

    def _write(self, batch: Batch) -> None:
        run, many = self._connection.execute, self._connection.executemany
        run("BEGIN IMMEDIATE")
        try:
            many("INSERT INTO blocks (count, data) VALUES (?, ?)", [(len(b), b.pack()) for b in batch.blocks if len(b)])
            many(
                "INSERT INTO accounts (kind, count, data) VALUES (?, ?, ?)",
                [
                    (k, len(rows), pack_rows(k, rows))
                    for k, rows in concatenate([b.accounts for b in batch.blocks]).items()
                ],
            )
            many("INSERT OR REPLACE INTO operations VALUES (?, ?, ?, ?, ?)", map(_to_values, batch.operations))
            many("INSERT OR REPLACE INTO sites VALUES (?, ?, ?, ?, ?, ?, ?)", map(_to_values, batch.sites))
            many("INSERT OR REPLACE INTO names VALUES (?, ?)", [(i, _to_utf8(text)) for i, text in batch.names])
            many("INSERT OR REPLACE INTO threads VALUES (?, ?, ?, ?, ?)", map(_to_values, batch.threads))
            many(
                "INSERT OR REPLACE INTO folds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                map(_to_values, batch.folds),
            )
            many("INSERT OR REPLACE INTO op_folds VALUES (?, ?, ?, ?)", map(_to_values, batch.op_folds))
            many(
                "INSERT INTO notes VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
                [(kind, _to_utf8(text), count) for kind, text, count in batch.notes],
            )
            many("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(k, json.dumps(v)) for k, v in batch.meta.items()])
            run("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                run("ROLLBACK")
            raise

    def read(self) -> Contents:
        """Return everything written so far."""
        with sqlite_fork.lock:
            return _read_contents(self._connection)

    def close(self) -> None:
        """Close the connection to the file."""
        with sqlite_fork.lock:
            self._connection.close()


def write_file(path: Path, contents: Contents) -> None:
    """Write ``contents`` to a new file at ``path``. Raises ``GradprobeError`` if that fails."""
    store = Store(path)
    try:
        store.write(
            Batch(
                blocks=[*contents.blocks, replace(EventBlock.of([]), accounts=contents.accounts)],
                sites=list(contents.sites.values()),
                names=list(contents.names.items()),
                threads=list(contents.threads.values()),
                operations=list(contents.operations.values()),
                folds=contents.folds,
                op_folds=contents.op_folds,
                notes=contents.notes,
                meta=contents.meta,
            )
        )
    except sqlite3.Error as error:
        raise GradprobeError(f"cannot save to {path}: {error}; make room there, or name another file") from None
    finally:
        store.close()


def read_file(path: Path) -> Contents:
    """Return the contents of the recording at ``path``.

    Raises ``RecordingError`` if the file is missing, is not a recording, is damaged, or has a newer schema.
    """
    cannot = f"cannot read {path}: "
    if not path.is_file():
        if path.is_dir():
            raise RecordingError(f"{cannot}it is a folder; name the {SUFFIX} files in it")
        if path.exists():
            raise RecordingError(f"{cannot}it is not a regular file; name a {SUFFIX} file")
        raise RecordingError(f"{cannot}there is no such file; make one with: gradprobe run -o {path} SCRIPT")
    connection = None
    try:
        with path.open("rb") as file:
            if not file.read(16).startswith(b"SQLite format 3\0"):
                raise RecordingError(f"{cannot}not a gradprobe recording; name a {SUFFIX} file")
        connection = sqlite3.connect(path.absolute().as_uri() + "?mode=rw", uri=True, timeout=5)
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise RecordingError(
                f"{cannot}another program's SQLite file, not a gradprobe recording; name a {SUFFIX} file"
            )
        if not 1 <= schema <= SCHEMA_VERSION:
            raise RecordingError(
                f"{cannot}written with schema {schema}, this gradprobe reads up to {SCHEMA_VERSION}; upgrade gradprobe"
            )
        return _read_contents(connection)
    except RecordingError as error:
        text = str(error)
        raise RecordingError(
            text if text.startswith(cannot) else f"{cannot}damaged ({_to_one_line(text)}); record again"
        ) from None
    except (
        sqlite3.Error,
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise RecordingError(f"{cannot}damaged or cut short ({_to_one_line(str(error))}); record again") from None
    except OSError as error:
        raise RecordingError(f"{cannot}{error.strerror}; check the path and its permissions") from None
    finally:
        if connection is not None:
            connection.close()


def _read_contents(connection: sqlite3.Connection) -> Contents:
    def rows(table: str) -> Iterator[tuple[Any, ...]]:
        return iter(connection.execute(f"SELECT * FROM {table} ORDER BY rowid"))

    connection.execute("BEGIN")
    try:
        refuse_computed_tables(connection)
        sites = [Site(*[*row[:6], bool(row[6])]) for row in rows("sites")]
        threads = [Thread(*[*row[:4], bool(row[4])]) for row in rows("threads")]
        operations, accounts, op_folds = [], {}, []
        if connection.execute("PRAGMA user_version").fetchone()[0] > 1:
            folds = [Fold(*[*row[:12], read_durations(row[12])]) for row in rows("folds")]
            operations = [Operation(*row) for row in rows("operations")]
            accounts = concatenate([{kind: unpack_rows(kind, data, int(n))} for _, kind, n, data in rows("accounts")])
            op_folds = [
                OpFold(s, o, t, [check_size(n) for n in json.loads(sums)]) for s, o, t, sums in rows("op_folds")
            ]
        else:
            folds = [Fold(*[*row[:10], 0, 0, read_durations(row[10])]) for row in rows("folds")]
        check_records([*sites, *threads, *folds, *operations, *op_folds])
        check_operations(operations, op_folds)
        return Contents(
            meta=read_meta(rows("meta")),
            blocks=_join_blocks([EventBlock.unpack(data, int(count)) for _, count, data in rows("blocks")]),
            sites={site.id: site for site in sites},
            names={int(number): str(text) for number, text in rows("names")},
            threads={thread.id: thread for thread in threads},
            folds=folds,
            notes=[(str(kind), str(text), int(count)) for kind, text, count in rows("notes")],
            operations={operation.id: operation for operation in operations},
            accounts=accounts,
            op_folds=op_folds,
        )
    finally:
        connection.execute("ROLLBACK")


def _join_blocks(blocks: list[EventBlock]) -> list[EventBlock]:
    """Return the events as one block: interpretation needs them so, and does not then hold them twice."""
    return [EventBlock.joined(blocks)] if blocks else []


def _to_values(record: Record) -> list[Any]:
    # Not dataclasses.astuple: it copies a Counter into one that counts pairs.
    values = (getattr(record, f.name) for f in fields(record))
    return [json.dumps(v) if isinstance(v, dict | list) else _to_utf8(v) if isinstance(v, str) else v for v in values]


def _to_utf8(text: str) -> str:
    # A file name may have bytes that are not UTF-8; Python carries them as lone surrogates, which SQLite refuses.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _to_one_line(text: str) -> str:
    """Return the text of an error, which may quote the file, without line breaks and control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
