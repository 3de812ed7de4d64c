"""What operators did, in counts, beside the events: tables of numbers whose rows belong to events by their key.

A tally adds up the operators of one kind that a thread ran at one place between two of its events. Its event, of operation
``TALLY``, stands in the stream where those operators ran; its key is the tally's number.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gradprobe.errors import RecordingError

FORWARD, BACKWARD, IN_OPTIMIZER = range(3)
PHASES = ("forward", "backward", "optimizer")


class OpCounts(NamedTuple):
    """What operators did. The nodes of a row without a call were constructed at its place, outside of an operator."""

    calls: int = 0
    nodes: int = 0
    version_bumps: int = 0
    counters_created: int = 0
    tracked_views: int = 0
    untracked_views: int = 0
    inference_outputs: int = 0
    normal_outputs: int = 0
    uncounted_writes: int = 0
    """In-place changes of tensors that have no version counter."""
    hooked: int = 0
    """Saved tensors that went to the program's own saved-tensor hooks."""
    failed_version_reads: int = 0
    normal_without_counter: int = 0
    """Parameters taken, and tensors written to, that say they are normal and have no version counter."""
    inference_with_counter: int = 0
    """The same of those that say they are inference tensors and have one."""

    def __add__(self, other: tuple[Any, ...]) -> OpCounts:
        return _added(self, other)

    def times(self, number: int) -> OpCounts:
        return OpCounts(*(number * value for value in self))


@lru_cache(4_096)
def _added(one: OpCounts, other: tuple[Any, ...]) -> OpCounts:
    # Remembered: operators add the same few accounts over and over, and a sum takes longer than to look it up.
    return OpCounts(*map(int.__add__, one, other))


NO_COUNTS = OpCounts()


@dataclass(frozen=True)
class Operation:
    """An operator as it was called somewhere; ``node`` names what autograd constructed for it."""

    id: int
    op: str
    node: str | None
    module: str
    phase: int


TALLIES = np.dtype([("key", "<u8"), ("operation", "<u4"), *((name, "<i8") for name in OpCounts._fields)])
SAVED = np.dtype([("key", "<u8"), ("storage", "<u8"), ("bytes", "<i8"), ("made_ns", "<i8")])
"""Storages saved for backward by the operators of a tally; ``made_ns`` is -1 for one older than the recording."""
INPUTS = np.dtype([("key", "<u8"), ("storage", "<u8")])
"""Those of the saved storages that autograd took for inputs: none of its operators made them."""
BACKWARDS = np.dtype([("key", "<u8"), ("first", "<i8"), ("last", "<i8")])
"""Runs of sequence numbers of the nodes that a backward pass reaches."""
ESCAPED = np.dtype(
    [("key", "<u8"), ("operation", "<u4"), ("made_ns", "<i8"), ("count", "<i8"), ("bytes", "<i8"), ("held", "<i8")]
)
"""Inference tensors that outlived inference mode; ``held`` of them were alive at the end."""
RETURNS_FIELDS = (
    "nodes", "saved_bytes", "graph_bytes", "hooked", "unread",
    "parameter_bumps", "buffer_bumps", "argument_bumps", "result_bumps",
)  # fmt: skip
RETURNS = np.dtype([("key", "<u8"), *((name, "<i8") for name in RETURNS_FIELDS)])
"""What probed calls returned, by the key of the call."""

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
"""When a device passed an edge of a block, on the processor's clock; the bytes its tensors held then, and at most."""

ROW_DTYPES = {
    "tallies": TALLIES,
    "saved": SAVED,
    "inputs": INPUTS,
    "backwards": BACKWARDS,
    "outliving": ESCAPED,
    "returns": RETURNS,
    "devices": DEVICES,
}
OpRows = dict[str, np.ndarray[Any, Any]]
"""Rows of each kind."""


def make_rows(kind: str, rows: Sequence[tuple[int, ...]]) -> np.ndarray[Any, Any]:
    """``rows`` as an array of their kind."""
    return np.array(rows, dtype=ROW_DTYPES[kind])


def joined(parts: Sequence[OpRows]) -> OpRows:
    """The rows of several accounts, one after the other."""
    return {
        kind: np.concatenate(arrays)
        for kind in ROW_DTYPES
        if (arrays := [part[kind] for part in parts if kind in part and len(part[kind])])
    }


def selected(accounts: OpRows, keys: np.ndarray[Any, Any]) -> OpRows:
    """The rows that belong to ``keys``."""
    chosen = {kind: array[np.isin(array["key"], keys)] for kind, array in accounts.items()}
    return {kind: array for kind, array in chosen.items() if len(array)}


def pack(array: np.ndarray[Any, Any]) -> bytes:
    """Rows as bytes, column by column, deflated."""
    return zlib.compress(b"".join(np.ascontiguousarray(array[name]).tobytes() for name in array.dtype.names or ()), 1)


def unpack(kind: str, data: bytes, count: int) -> np.ndarray[Any, Any]:
    """The rows that ``pack`` made bytes of. Raises ``RecordingError`` where the bytes are not those of ``count`` rows."""
    if kind not in ROW_DTYPES:
        raise RecordingError(f"there are rows of an unknown kind ({kind!r})")
    dtype = ROW_DTYPES[kind]
    expected = count * dtype.itemsize
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(data, max(expected, 0) + 1)
    except (zlib.error, TypeError) as error:
        raise RecordingError(f"an account cannot be read ({error})") from None
    if len(raw) != expected or not inflater.eof:
        raise RecordingError("an account has another length than it says")
    array, start = np.empty(count, dtype), 0
    for name in dtype.names or ():
        column = np.frombuffer(raw, dtype=dtype[name], count=count, offset=start)
        array[name] = column
        start += column.nbytes
    return array
