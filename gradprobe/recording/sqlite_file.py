"""The SQLite file that holds a recording: its schema, the writing of it as it grows, and the reading.

Schema numbers, kept in the file's ``user_version``:

    1  meta, sites, names, threads, blocks, folds, notes
    2  and operations, accounts, op_folds; hidden time in folds

Every batch is one transaction of a rollback journal, so a process that is killed leaves a readable file that misses at
most the batch under way. Nothing is synchronised to the disk: a recording outlives its process, not a power cut.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError, RecordingError
from gradprobe.recording import sqlite_fork
from gradprobe.recording.events import EventBlock
from gradprobe.recording.op_rows import PHASES, OpCounts, Operation, OpRows, joined, pack, unpack

SCHEMA = 2
SUFFIX = ".gradprobe"
_APPLICATION = 0x67726164
_LAST_DURATION = 512
"""No class of durations is beyond: there are eight to each doubling, and times have 63 bits."""
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE sites (id INTEGER PRIMARY KEY, file TEXT, line INTEGER, end_line INTEGER, function TEXT,
                    form TEXT NOT NULL, internal INTEGER NOT NULL);
CREATE TABLE names (id INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE threads (id INTEGER PRIMARY KEY, name TEXT NOT NULL, ident INTEGER NOT NULL, began_ns INTEGER NOT NULL,
                      inherited INTEGER NOT NULL);
CREATE TABLE blocks (id INTEGER PRIMARY KEY, count INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE folds (manager INTEGER, site INTEGER, thread INTEGER, state INTEGER, error TEXT, count INTEGER,
                    total_ns INTEGER, self_ns INTEGER, nodes INTEGER, self_nodes INTEGER, hidden_ns INTEGER,
                    hidden_nodes INTEGER, durations TEXT,
                    PRIMARY KEY (manager, site, thread, state, error));
CREATE TABLE operations (id INTEGER PRIMARY KEY, op TEXT NOT NULL, node TEXT, module TEXT NOT NULL,
                         phase INTEGER NOT NULL);
CREATE TABLE accounts (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, count INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE op_folds (site INTEGER, operation INTEGER, thread INTEGER, sums TEXT NOT NULL,
                       PRIMARY KEY (site, operation, thread));
CREATE TABLE notes (kind TEXT NOT NULL, text TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (kind, text));
"""


@dataclass(frozen=True)
class Site:
    """A place in the program's source.

    ``form`` is how a manager stands there: with, decorator, generator, or indirect for library code between a
    manager and the line that uses it. ``internal`` marks PyTorch's own code.
    """

    id: int
    file: str | None
    line: int | None
    end_line: int | None
    function: str | None
    form: str
    internal: bool


@dataclass(frozen=True)
class Thread:
    """A thread that changed a mode, first seen doing so at ``began_ns``; ``inherited`` if older than the capture."""

    id: int
    name: str
    ident: int
    began_ns: int
    inherited: bool


@dataclass(frozen=True)
class Fold:
    """Finished blocks of one site, thread, state and outcome that were added up instead of kept one by one.

    ``state`` packs the modes before and, two bits higher, inside; ``durations`` counts the blocks by duration class.
    ``self_ns`` leaves out the blocks inside; the part of those that PyTorch's own code entered is ``hidden_ns``.
    """

    manager: int
    site: int
    thread: int
    state: int
    error: str
    count: int
    total_ns: int
    self_ns: int
    nodes: int
    self_nodes: int
    hidden_ns: int
    hidden_nodes: int
    durations: dict[int, int]


@dataclass(frozen=True)
class OpFold:
    """Operators that were added up without their regions: the bytes they saved, and the counts of an account."""

    site: int
    operation: int
    thread: int
    sums: list[int]


@dataclass
class Batch:
    """What one transaction adds."""

    blocks: list[EventBlock] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    names: list[tuple[int, str]] = field(default_factory=list)
    threads: list[Thread] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    folds: list[Fold] = field(default_factory=list)
    op_folds: list[OpFold] = field(default_factory=list)
    notes: list[tuple[str, str, int]] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) for f in fields(self))


@dataclass(frozen=True)
class Contents:
    """All that a recording of one process holds."""

    meta: dict[str, Any]
    blocks: list[EventBlock]
    sites: dict[int, Site]
    names: dict[int, str]
    threads: dict[int, Thread]
    folds: list[Fold]
    notes: list[tuple[str, str, int]]
    operations: dict[int, Operation] = field(default_factory=dict)
    accounts: OpRows = field(default_factory=dict)
    op_folds: list[OpFold] = field(default_factory=list)


class Store:
    """A recording being written; ``path`` None keeps it in memory. Callers see to it that one thread writes at a time."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is not None and not path.parent.is_dir():
            raise GradprobeError(f"cannot record to {path}: there is no folder {path.parent}; create it first")
        sqlite_fork.check()
        with sqlite_fork.lock:
            self._open(path)

    def _open(self, path: Path | None) -> None:
        try:
            self._connection = sqlite3.connect(
                ":memory:" if path is None else path, isolation_level=None, check_same_thread=False, timeout=0.2
            )
            self._connection.execute("PRAGMA synchronous = OFF")
            self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._connection.execute(f"PRAGMA user_version = {SCHEMA}")
            self._connection.executescript(f"BEGIN; {_TABLES} COMMIT;")
        except sqlite3.Error as error:
            raise GradprobeError(f"cannot record to {path}: {error}; name a file that can be written") from None

    def write(self, batch: Batch) -> None:
        """Adds ``batch`` as one transaction, or nothing of it: then ``sqlite3.Error`` is raised."""
        with sqlite_fork.lock:
            self._write(batch)

    def _write(self, batch: Batch) -> None:
        run, many = self._connection.execute, self._connection.executemany
        run("BEGIN IMMEDIATE")
        try:
            many("INSERT INTO blocks (count, data) VALUES (?, ?)", [(len(b), b.pack()) for b in batch.blocks if len(b)])
            many(
                "INSERT INTO accounts (kind, count, data) VALUES (?, ?, ?)",
                [(k, len(rows), pack(rows)) for k, rows in joined([b.accounts for b in batch.blocks]).items()],
            )
            many("INSERT OR REPLACE INTO operations VALUES (?, ?, ?, ?, ?)", map(_plain, batch.operations))
            many("INSERT OR REPLACE INTO sites VALUES (?, ?, ?, ?, ?, ?, ?)", map(_plain, batch.sites))
            many("INSERT OR REPLACE INTO names VALUES (?, ?)", [(i, _writable(text)) for i, text in batch.names])
            many("INSERT OR REPLACE INTO threads VALUES (?, ?, ?, ?, ?)", map(_plain, batch.threads))
            many(
                "INSERT OR REPLACE INTO folds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                map(_plain, batch.folds),
            )
            many("INSERT OR REPLACE INTO op_folds VALUES (?, ?, ?, ?)", map(_plain, batch.op_folds))
            many(
                "INSERT INTO notes VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
                [(kind, _writable(text), count) for kind, text, count in batch.notes],
            )
            many("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(k, json.dumps(v)) for k, v in batch.meta.items()])
            run("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                run("ROLLBACK")
            raise

    def read(self) -> Contents:
        """Everything written so far."""
        with sqlite_fork.lock:
            return _contents(self._connection)

    def close(self) -> None:
        with sqlite_fork.lock:
            self._connection.close()


def write_file(path: Path, contents: Contents) -> None:
    """Writes ``contents`` to a new file at ``path``."""
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
        raise GradprobeError(f"cannot save to {path}: {error}") from None
    finally:
        store.close()


def read_file(path: Path) -> Contents:
    """What the recording at ``path`` holds.

    Raises ``RecordingError`` for a file that is missing, no recording, damaged, or of a schema newer than this one.
    """
    if not path.is_file():
        raise RecordingError(f"{path}: there is no such file; make one with: gradprobe run -o {path} SCRIPT")
    connection = None
    try:
        with path.open("rb") as file:
            if not file.read(16).startswith(b"SQLite format 3\0"):
                raise RecordingError(f"{path}: not a gradprobe recording")
        connection = sqlite3.connect(path.absolute().as_uri() + "?mode=rw", uri=True, timeout=5)
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION:
            raise RecordingError(f"{path}: not a gradprobe recording, but another program's SQLite file")
        if not 1 <= schema <= SCHEMA:
            raise RecordingError(
                f"{path}: written with schema {schema}, this gradprobe reads up to {SCHEMA}; upgrade gradprobe"
            )
        return _contents(connection)
    except RecordingError as error:
        text = str(error)
        raise RecordingError(text if text.startswith(str(path)) else f"{path}: damaged: {_in_a_line(text)}") from None
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
        raise RecordingError(f"{path}: damaged or cut short ({_in_a_line(str(error))}); record again") from None
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror}") from None
    finally:
        if connection is not None:
            connection.close()


def _in_a_line(text: str) -> str:
    """What an error says, which may be in the words of the file: without what breaks a line or commands a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _contents(connection: sqlite3.Connection) -> Contents:
    def rows(table: str) -> Iterator[tuple[Any, ...]]:
        return iter(connection.execute(f"SELECT * FROM {table} ORDER BY rowid"))

    connection.execute("BEGIN")
    try:
        _refuse_what_computes(connection)
        sites = [Site(*[*row[:6], bool(row[6])]) for row in rows("sites")]
        threads = [Thread(*[*row[:4], bool(row[4])]) for row in rows("threads")]
        operations, accounts, op_folds = [], {}, []
        if connection.execute("PRAGMA user_version").fetchone()[0] > 1:
            folds = [Fold(*[*row[:12], _durations(row[12])]) for row in rows("folds")]
            operations = [Operation(*row) for row in rows("operations")]
            accounts = joined([{kind: unpack(kind, data, int(count))} for _, kind, count, data in rows("accounts")])
            op_folds = [OpFold(s, o, t, [_counted(n) for n in json.loads(sums)]) for s, o, t, sums in rows("op_folds")]
        else:
            folds = [Fold(*[*row[:10], 0, 0, _durations(row[10])]) for row in rows("folds")]
        _check([*sites, *threads, *folds, *operations, *op_folds])
        if any(not 0 <= o.phase < len(PHASES) for o in operations) or any(
            len(fold.sums) != 1 + len(OpCounts._fields) for fold in op_folds
        ):
            raise ValueError("an operation or its sums are not as they are written")
        return Contents(
            meta=_meta(rows("meta")),
            blocks=[EventBlock.unpack(data, int(count)) for _, count, data in rows("blocks")],
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


def _refuse_what_computes(connection: sqlite3.Connection) -> None:
    """Raises ``ValueError`` for anything but plain tables: reading a view or a computed column runs what the file says,
    for as long as it says."""
    for kind, name, statement in connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall():
        is_table = kind == "table" and str(statement).upper().startswith("CREATE TABLE")
        if not is_table and not (kind == "index" and statement is None):
            raise ValueError(f"{name} is no plain table")
        quoted = str(name).replace('"', '""')
        if any(column[6] for column in connection.execute(f'PRAGMA table_xinfo("{quoted}")')):
            raise ValueError(f"{name} has columns that are computed")


_TYPES = {"int": int, "str": str, "bool": bool, "int | None": int | None, "str | None": str | None}


def _check(records: Iterable[Site | Thread | Fold | Operation | OpFold]) -> None:
    # SQLite keeps in a column whatever it is given, and a damaged file may give anything.
    for record in records:
        for f in fields(record):
            value = getattr(record, f.name)
            if not isinstance(value, _TYPES.get(str(f.type), dict | list)):
                raise TypeError(f"{f.name} of a {type(record).__name__.lower()} is {type(value).__name__}")


def _meta(rows: Iterable[tuple[Any, ...]]) -> dict[str, Any]:
    meta = {str(key): json.loads(value) for key, value in rows}
    for key, value in meta.items():
        expected = dict if key == "environment" else int
        if not isinstance(value, expected):
            raise TypeError(f"{key} is {type(value).__name__}")
        if isinstance(value, int) and value.bit_length() > 63:
            raise ValueError(f"{key} is out of range")
    environment = meta.get("environment", {})
    for key in ("process", "parent", "rank"):
        if environment.get(key) is not None and not isinstance(environment[key], int):
            raise TypeError(f"{key} is {type(environment[key]).__name__}")
        _counted(environment.get(key) or 0)
    return meta


def _durations(text: str) -> dict[int, int]:
    durations = {int(key): _counted(count) for key, count in json.loads(text).items()}
    if any(not 0 <= duration <= _LAST_DURATION for duration in durations):
        raise ValueError("a class of durations is out of range")
    return durations


def _counted(value: Any) -> int:
    """``value`` as an integer of the size that SQLite has too. JSON tells of any, and tables hold no others."""
    number = int(value)
    if number.bit_length() > 63:
        raise ValueError("a number is out of range")
    return number


def _plain(record: Site | Thread | Fold | Operation | OpFold) -> list[Any]:
    # Not dataclasses.astuple: it copies a Counter into one that counts pairs.
    values = (getattr(record, f.name) for f in fields(record))
    return [json.dumps(v) if isinstance(v, dict | list) else _writable(v) if isinstance(v, str) else v for v in values]


def _writable(text: str) -> str:
    # A file name may hold bytes that are no UTF-8; Python carries them as lone surrogates, which SQLite refuses.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
