"""The events a capture emits, and how a block of them becomes bytes and comes back.

A hook may spend well under a microsecond, so an event is a plain tuple, meaningless without this file:

    (op, time_ns, thread, code, offset, grad_before, inference_before, grad_after, inference_after, key, extra[, nodes])

``code`` and ``offset`` say where the call stands in the program's bytecode; they become a site when the event is packed.
``key`` is the identity of the manager object, by which an exit finds its enter. ``extra`` is the label of the asyncio
task on the way in, and the type of the exception on the way out. ``nodes`` is the thread's count of autograd nodes,
which level "modes" leaves out.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradprobe.errors import RecordingError
from gradprobe.recording.op_rows import OpRows, joined, selected

# An operation is the manager's number plus one of the four things that happen to a manager.
NO_GRAD, ENABLE_GRAD, SET_GRAD_ENABLED, INFERENCE_MODE, CALL, THREAD, FOLDED = 4, 8, 12, 16, 20, 24, 28
ENTER, EXIT, CONSTRUCT, DECORATE = 0, 1, 2, 3
ACTION_MASK = 3
# What stands for rows of an account: operators of one kind, a backward pass, tensors that outlived inference mode.
TALLY, BACKWARD_PASS, ESCAPED_TENSORS = 32, 36, 40
COMPILED_CALL = 44  # a function that torch.compile compiled is called; no rows belong to it
FOLDED_OPERATORS = TALLY | EXIT  # some that ran here were added up, and are in no region
DEVICE = 48  # the edge of a block, marked in a stream of an accelerator; its row says when the device passed it
# What is never stored: tallies of a stretch in one, operators one by one, those that saved storages with these, rows on
# their way to an account, several operators in one, marks for the writing thread.
OP_SEQUENCE, OPERATOR, SAVING, OP_ROWS, OP_BATCH, WRITER_MARK = 56, 60, 64, 68, 72, 128
# What happens to a thread besides its beginning and end.
RECORDING_BEGINS, RECORDING_ENDS = CONSTRUCT, DECORATE
# What happens to a probed call between its beginning and its end: a generator or a coroutine waits. ENTER resumes it.
SUSPEND = DECORATE
# What was taken out: time in blocks, time in probed calls outside of blocks, and what ended the plain call in force. And
# how much of the time in blocks passed in those of PyTorch's own code, outside of blocks of the program.
FOLDED_BLOCKS, FOLDED_CALLS, FOLDED_END, FOLDED_HIDDEN = (
    FOLDED | ENTER,
    FOLDED | EXIT,
    FOLDED | CONSTRUCT,
    FOLDED | DECORATE,
)

MANAGERS = {
    NO_GRAD: "no_grad",
    ENABLE_GRAD: "enable_grad",
    SET_GRAD_ENABLED: "set_grad_enabled",
    INFERENCE_MODE: "inference_mode",
}
UNKNOWN = "unknown"

# Offsets below zero mark places that are no instruction of the code object: the function as a whole, decorated.
DECORATED, GENERATOR = -1, -2

NOWHERE = 0
NOT_COUNTED = -1  # an event without a node count

Event = tuple[Any, ...]


class SharedEvent(tuple[Any, ...]):
    """An event that may stand in the queue many times. It equals itself alone: counting does not read it."""

    __slots__ = ()
    __eq__ = object.__eq__
    __hash__ = object.__hash__


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
_FASTEST = 1


@dataclass(frozen=True)
class EventBlock:
    """Events of one stretch as columns of equal length; row i of each is one event."""

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
        """The events as tuples of plain integers, in the order of the fields."""
        columns = (getattr(self, name).tolist() for name in _PACKED.names or ())
        return list(zip(*columns, strict=True))

    @classmethod
    def of(cls, rows: Sequence[tuple[int, ...]]) -> EventBlock:
        """The block that holds ``rows``, tuples as ``rows()`` gives them."""
        columns = list(zip(*rows, strict=True)) or [()] * len(_PACKED.names or ())
        return cls(
            *(np.array(c, dtype=_PACKED[name]) for c, name in zip(columns, _PACKED.names or (), strict=True)),
        )

    @classmethod
    def joined(cls, blocks: Sequence[EventBlock]) -> EventBlock:
        """The events of several blocks, one after the other."""
        columns = (np.concatenate([getattr(block, name) for block in blocks]) for name in _PACKED.names or ())
        return cls(*columns, accounts=joined([block.accounts for block in blocks]))

    def select(self, indices: Sequence[int]) -> EventBlock:
        """The events at ``indices``."""
        chosen = EventBlock(*(getattr(self, name)[indices] for name in _PACKED.names or ()))
        marks = chosen.key[chosen.op >= TALLY]
        return replace(chosen, accounts=selected(self.accounts, marks)) if self.accounts else chosen

    def without_operators(self) -> EventBlock:
        """The block as a recording has it that does not ask for operators."""
        chosen = self
        if len(self) and int(self.op.max()) >= TALLY:
            kept = (self.op & ~np.uint8(ACTION_MASK) != TALLY) & (self.op != ESCAPED_TENSORS)
            chosen = EventBlock(*(getattr(self, name)[kept] for name in _PACKED.names or ()))
        accounts = {kind: rows for kind, rows in self.accounts.items() if kind in ("backwards", "returns", "devices")}
        return replace(chosen, accounts=accounts)

    def pack(self) -> bytes:
        """The block as bytes: each column on its own, slowly changing ones as differences, then deflated."""
        parts = []
        for name in _PACKED.names or ():
            column = np.ascontiguousarray(getattr(self, name), dtype=_PACKED[name])
            if name in ("time_ns", "nodes") and len(column):
                column = np.diff(column, prepend=column.dtype.type(0))
            parts.append(column.tobytes())
        return zlib.compress(b"".join(parts), _FASTEST)

    @classmethod
    def unpack(cls, data: bytes, count: int) -> EventBlock:
        """The block that ``pack`` made bytes of.

        Raises ``RecordingError`` where the bytes are not those of ``count`` events.
        """
        expected = count * _PACKED.itemsize
        inflater = zlib.decompressobj()
        try:
            raw = inflater.decompress(data, max(expected, 0) + 1)
        except (zlib.error, TypeError) as error:
            raise RecordingError(f"a block of events cannot be read ({error})") from None
        if len(raw) != expected or not inflater.eof:
            raise RecordingError("a block of events has another length than it says")
        columns, start = [], 0
        for name in _PACKED.names or ():
            dtype = _PACKED[name]
            column = np.frombuffer(raw, dtype=dtype, count=count, offset=start)
            start += count * dtype.itemsize
            columns.append(np.cumsum(column, dtype=dtype) if name in ("time_ns", "nodes") else column)
        return cls(*columns)


# A mode as two bits: off, on, or not read. Four of them make the state of an event: grad and inference, before and after.
NOT_READ = 2


def state_of(grad: bool | None, inference: bool | None) -> int:
    """The two modes as one number of four bits."""
    return (NOT_READ if grad is None else int(grad)) | (NOT_READ if inference is None else int(inference)) << 2


def mode_name(grad: bool, inference: bool) -> str:
    """What people call a combination of the two modes."""
    if inference:
        return "inference_mode + enable_grad" if grad else "inference_mode"
    return "grad" if grad else "no_grad"
