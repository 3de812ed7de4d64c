"""Events as a capture emits them, and blocks of events, which are packed into bytes.

A hook may spend well under a microsecond, so an event is a plain tuple of plain integers and references:

    (op, time_ns, thread, code, offset, grad_before, inference_before, grad_after, inference_after, key, extra[, nodes])

``op`` is an operation, see below. ``code`` and ``offset`` are the place of the call in the program's bytecode; they become
a site when the event is packed. ``key`` is the identity of the context manager object, by which an exit is paired with its
enter. ``extra`` is the label of the asyncio task at an enter, and the type of the exception at an exit. ``nodes`` is the
thread's count of autograd nodes, which level "modes" leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradprobe.recording.compression import deflate, inflate
from gradprobe.recording.op_rows import OpRows, concatenate, select_keys

# An operation is a subject, plus one of four actions in its two lowest bits. Operations are plain integers, not members of
# an enumeration: hooks emit and compare them.
ACTION_MASK = 3
ENTER, EXIT, CONSTRUCT, DECORATE = 0, 1, 2, 3

# Subjects: the four context managers, a probed call, a thread, and what was folded.
NO_GRAD, ENABLE_GRAD, SET_GRAD_ENABLED, INFERENCE_MODE, CALL, THREAD, FOLDED = 4, 8, 12, 16, 20, 24, 28

# A thread not only begins (ENTER) and ends (EXIT); a recording may begin and end while it runs.
RECORDING_BEGINS, RECORDING_ENDS = CONSTRUCT, DECORATE
# A probed generator or coroutine that yields or awaits suspends its call; ENTER resumes it.
SUSPEND = DECORATE
# Markers of what was folded: time in blocks; time in probed calls outside of blocks; the end of the plain call that was
# active; and the part of the time in blocks that passed in those of PyTorch's own code, outside of blocks of the program.
FOLDED_BLOCKS, FOLDED_CALLS, FOLDED_END, FOLDED_HIDDEN = (
    FOLDED | ENTER,
    FOLDED | EXIT,
    FOLDED | CONSTRUCT,
    FOLDED | DECORATE,
)

# Subjects from here on change no mode. Rows of other tables belong to them by their key: the operators of one kind, a
# backward pass, inference tensors that escaped.
TALLY, BACKWARD_PASS, ESCAPED_TENSORS = 32, 36, 40
COMPILED_CALL = 44
"""Call of a function that ``torch.compile`` compiled; no rows belong to it."""
FOLDED_OPERATORS = TALLY | EXIT
"""Marker of operators that ran here, were added up, and are in no region."""
DEVICE = 48
"""Edge of a block, marked in a stream of an accelerator; its row has the time that the device passed."""
PHASE = 52
"""Begin and end of a phase of the program; its site has the name, its key the number of the run."""
AUTOMATIC_PHASE = PHASE | CONSTRUCT
"""Begin of a phase that gradprobe found."""

# Never stored, but turned into the above by the writing thread: rows on their way to a table; a batch of operators; markers
# for that thread.
OP_ROWS, OP_BATCH, WRITER_MARK = 68, 72, 128

MANAGERS = {
    NO_GRAD: "no_grad",
    ENABLE_GRAD: "enable_grad",
    SET_GRAD_ENABLED: "set_grad_enabled",
    INFERENCE_MODE: "inference_mode",
}
"""Names of the context managers."""
UNKNOWN = "unknown"
"""Stand-in for the name of a context manager if a mode changed and none had announced it."""

# Offsets below zero, which are not instructions of the code object: the decorated function or generator as a whole.
DECORATED, GENERATOR = -1, -2

NOWHERE = 0
"""Number of the site of an event that has none."""
NOT_COUNTED = -1
"""Node count of an event that has none."""
NOT_READ = 2
"""Two bits for a mode that was not read, otherwise 0 or 1. Four pairs make the state of an event."""

Event = tuple[Any, ...]
"""Event as it was emitted."""


_PACKED = np.dtype(
    [
        ("op", "u1"),
        ("time_ns", "<i8"),
        ("thread", "<u4"),
        ("site", "<u4"),
        ("state", "u1"),
        ("key", "<u8"),
        ("extra", "<u4"),
        ("nodes", "<i8"),
    ]
)
_STORED_AS_DIFFERENCES = ("time_ns", "nodes")


@dataclass(frozen=True)
class EventBlock:
    """A block of events as columns of equal length; row i of each is one event."""

    op: np.ndarray[Any, Any]
    time_ns: np.ndarray[Any, Any]
    thread: np.ndarray[Any, Any]
    site: np.ndarray[Any, Any]
    state: np.ndarray[Any, Any]
    key: np.ndarray[Any, Any]
    extra: np.ndarray[Any, Any]
    nodes: np.ndarray[Any, Any]
    accounts: OpRows = field(default_factory=dict, kw_only=True)
    """Rows that belong to these events by their key."""

    def __len__(self) -> int:
        return len(self.op)

    def rows(self) -> list[tuple[int, int, int, int, int, int, int, int]]:
        """Return the events as tuples of plain integers, in the order of the fields."""
        columns = (getattr(self, name).tolist() for name in _PACKED.names or ())
        return list(zip(*columns, strict=True))

    @classmethod
    def of(cls, rows: Sequence[tuple[int, ...]]) -> EventBlock:
        """Return a block of ``rows``, which are tuples as ``rows()`` returns them."""
        columns = list(zip(*rows, strict=True)) or [()] * len(_PACKED.names or ())
        return cls(
            *(np.array(c, dtype=_PACKED[name]) for c, name in zip(columns, _PACKED.names or (), strict=True)),
        )

    @classmethod
    def from_columns(cls, columns: Sequence[bytes | bytearray]) -> EventBlock:
        """Return a block of columns, each as the bytes of its numbers."""
        names = _PACKED.names or ()
        return cls(*(np.frombuffer(c, dtype=_PACKED[name]) for c, name in zip(columns, names, strict=True)))

    @classmethod
    def joined(cls, blocks: Sequence[EventBlock]) -> EventBlock:
        """Return the events of several blocks as one, in order."""
        if len(blocks) == 1:
            return blocks[0]
        columns = (np.concatenate([getattr(block, name) for block in blocks]) for name in _PACKED.names or ())
        return cls(*columns, accounts=concatenate([block.accounts for block in blocks]))

    def select(self, indices: Sequence[int] | np.ndarray[Any, Any]) -> EventBlock:
        """Return the events at ``indices``, with the rows that belong to them."""
        chosen = EventBlock(*(getattr(self, name)[indices] for name in _PACKED.names or ()))
        keys = chosen.key[chosen.op >= TALLY]
        return replace(chosen, accounts=select_keys(self.accounts, keys)) if self.accounts else chosen

    def without_operators(self) -> EventBlock:
        """Return the block as a recording stores it that does not observe operators."""
        chosen = self
        if len(self) and int(self.op.max()) >= TALLY:
            kept = (self.op & ~np.uint8(ACTION_MASK) != TALLY) & (self.op != ESCAPED_TENSORS)
            chosen = EventBlock(*(getattr(self, name)[kept] for name in _PACKED.names or ()))
        accounts = {kind: rows for kind, rows in self.accounts.items() if kind in ("backwards", "returns", "devices")}
        return replace(chosen, accounts=accounts)

    def pack(self) -> bytes:
        """Return the block as bytes: column by column, slowly changing ones as differences, deflated."""
        parts = []
        for name in _PACKED.names or ():
            column = np.ascontiguousarray(getattr(self, name), dtype=_PACKED[name])
            if name in _STORED_AS_DIFFERENCES and len(column):
                column = np.diff(column, prepend=column.dtype.type(0))
            parts.append(column.tobytes())
        return deflate(b"".join(parts))

    @classmethod
    def unpack(cls, data: bytes, count: int) -> EventBlock:
        """Return the ``count`` events packed in ``data``. Raises ``RecordingError`` if there are not as many."""
        raw = inflate(data, count * _PACKED.itemsize, "a block of events")
        columns, start = [], 0
        for name in _PACKED.names or ():
            dtype = _PACKED[name]
            column = np.frombuffer(raw, dtype=dtype, count=count, offset=start)
            start += count * dtype.itemsize
            columns.append(np.cumsum(column, dtype=dtype) if name in _STORED_AS_DIFFERENCES else column)
        return cls(*columns)


def mode_name(grad: bool, inference: bool) -> str:
    """Return the usual name for a combination of the two modes."""
    if inference:
        return "inference_mode + enable_grad" if grad else "inference_mode"
    return "grad" if grad else "no_grad"
