"""Rows of numbers beside the events, mostly counts of operators, which belong to events by their key.

A tally adds up the operators of one kind that a thread ran at one place between two of its events. Its event, of operation
``TALLY``, is in the stream where those operators ran; its key is the tally's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gradprobe.errors import RecordingError
from gradprobe.recording.compression import deflate, inflate

FORWARD, BACKWARD, IN_OPTIMIZER = range(3)
PHASES = ("forward", "backward", "optimizer")


class OpCounts(NamedTuple):
    """Effects of operators, as counts.

    Nodes that were constructed outside of any operator are in rows without calls, at the place that constructed them.
    """

    calls: int = 0
    nodes: int = 0
    version_bumps: int = 0
    counters_created: int = 0
    tracked_views: int = 0
    untracked_views: int = 0
    inference_outputs: int = 0
    normal_outputs: int = 0
    uncounted_writes: int = 0
    """In-place writes to tensors that have no version counter."""
    hooked: int = 0
    """Saved tensors that went to saved-tensor hooks of the user's program."""
    failed_version_reads: int = 0
    normal_without_counter: int = 0
    """Parameters read, and tensors written to, that report to be normal and have no version counter."""
    inference_with_counter: int = 0
    """Parameters and tensors as above that report to be inference tensors and have one."""

    def __add__(self, other: tuple[Any, ...]) -> OpCounts:
        return _added(self, other)

    def times(self, number: int) -> OpCounts:
        """Return every count multiplied by ``number``."""
        return OpCounts(*(number * value for value in self))


@lru_cache(4_096)
def _added(one: OpCounts, other: tuple[Any, ...]) -> OpCounts:
    # Cached: operators add the same few counts over and over, and to compute the sum takes longer than to look it up.
    return OpCounts(*map(int.__add__, one, other))


NO_COUNTS = OpCounts()


@dataclass(frozen=True)
class Operation:
    """Operator as it was called somewhere; ``node`` is the name of the autograd node that it constructed."""

    id: int
    op: str
    node: str | None
    module: str
    phase: int


TALLIES = np.dtype([("key", "<u8"), ("operation", "<u4"), *((name, "<i8") for name in OpCounts._fields)])
SAVED = np.dtype([("key", "<u8"), ("storage", "<u8"), ("bytes", "<i8"), ("made_ns", "<i8")])
"""Storages saved for backward by the operators of a tally; ``made_ns`` is -1 before the recording."""
INPUTS = np.dtype([("key", "<u8"), ("storage", "<u8")])
"""Saved storages that are inputs to autograd: no operator that it recorded allocated them."""
BACKWARDS = np.dtype([("key", "<u8"), ("first", "<i8"), ("last", "<i8")])
"""Ranges of sequence numbers of the nodes that a backward pass reaches."""
ESCAPED = np.dtype(
    [("key", "<u8"), ("operation", "<u4"), ("made_ns", "<i8"), ("count", "<i8"), ("bytes", "<i8"), ("held", "<i8")]
)
"""Inference tensors that escaped inference mode; ``held`` of them were still alive at the end."""
RETURNS_FIELDS = (
    "nodes", "saved_bytes", "graph_bytes", "hooked", "unread",
    "parameter_bumps", "buffer_bumps", "argument_bumps", "result_bumps",
)  # fmt: skip
RETURNS = np.dtype([("key", "<u8"), *((name, "<i8") for name in RETURNS_FIELDS)])
"""Effects of probed calls and the graphs that they returned, by the key of the call."""

DEVICES = np.dtype(
    [
        ("key", "<u8"),
        ("device", "<u4"),
        ("stream", "<i8"),
        ("passed_ns", "<i8"),
        ("allocated", "<i8"),
        ("peak", "<i8"),
    ]
)
"""Time at which a device passed an edge of a block, on the processor's clock; bytes of its tensors."""

ROW_DTYPES = {
    "tallies": TALLIES,
    "saved": SAVED,
    "inputs": INPUTS,
    "backwards": BACKWARDS,
    "outliving": ESCAPED,
    "returns": RETURNS,
    "devices": DEVICES,
}
"""Layout of the rows of each kind; the kinds are stored in the table ``accounts``."""

OpRows = dict[str, np.ndarray[Any, Any]]
"""Rows by their kind."""


def make_rows(kind: str, rows: Sequence[tuple[int, ...]]) -> np.ndarray[Any, Any]:
    """Return ``rows`` as an array of the layout of their kind."""
    return np.array(rows, dtype=ROW_DTYPES[kind])


def concatenate(parts: Sequence[OpRows]) -> OpRows:
    """Return the rows of several parts, one after the other."""
    return {
        kind: _join(arrays)
        for kind in ROW_DTYPES
        if (arrays := [part[kind] for part in parts if kind in part and len(part[kind])])
    }


def _join(arrays: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Return arrays of one kind as one, whose columns are as wide as the widest of theirs."""
    if len(arrays) == 1:
        return arrays[0]
    if len({array.dtype for array in arrays}) == 1:
        return np.concatenate(arrays)
    names = arrays[0].dtype.names or ()
    widest = [(name, np.result_type(*(array.dtype[name] for array in arrays))) for name in names]
    joined = np.empty(sum(map(len, arrays)), widest)
    for name in names:
        joined[name] = np.concatenate([array[name] for array in arrays])
    return joined


def select_keys(rows: OpRows, keys: np.ndarray[Any, Any]) -> OpRows:
    """Return the rows that belong to the events with ``keys``."""
    chosen = {kind: array[np.isin(array["key"], keys)] for kind, array in rows.items()}
    return {kind: array for kind, array in chosen.items() if len(array)}


def pack_rows(kind: str, array: np.ndarray[Any, Any]) -> bytes:
    """Return rows as bytes, column by column in the layout of their kind, deflated."""
    dtype = ROW_DTYPES[kind]
    return deflate(b"".join(np.ascontiguousarray(array[name], dtype[name]).tobytes() for name in dtype.names or ()))


def unpack_rows(kind: str, data: bytes, count: int) -> np.ndarray[Any, Any]:
    """Return the ``count`` rows packed in ``data``. Raises ``RecordingError`` if there are not as many."""
    if kind not in ROW_DTYPES:
        raise RecordingError(f"unknown kind of rows {kind!r}")
    dtype = ROW_DTYPES[kind]
    raw = inflate(data, count * dtype.itemsize, f"a block of {kind} rows")
    columns, start = {}, 0
    for name in dtype.names or ():
        columns[name] = np.frombuffer(raw, dtype=dtype[name], count=count, offset=start)
        start += columns[name].nbytes
    if kind == "tallies":
        # A long training has a million of them, nearly all of whose counts are below 256.
        narrow = [(name, dtype[name] if name == "key" else _find_narrowest(column)) for name, column in columns.items()]
        dtype = np.dtype(narrow)
    array = np.empty(count, dtype)
    for name, column in columns.items():
        array[name] = column
    return array


def _find_narrowest(column: np.ndarray[Any, Any]) -> np.dtype[Any]:
    """Return the narrowest type that holds the numbers of a column."""
    is_negative = int(column.min(initial=0)) < 0
    narrowest: np.dtype[Any] = column.dtype if is_negative else np.min_scalar_type(int(column.max(initial=0)))
    return narrowest
