"""Records of a recording: what one process stored, and the batch that one transaction adds."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from gradprobe.recording.events import EventBlock
from gradprobe.recording.notes import Note
from gradprobe.recording.op_rows import Operation, OpRows


@dataclass(frozen=True)
class Site:
    """A place in the program's source.

    ``form`` is how a context manager is used there: with, decorator, generator, or indirect for library code between a
    context manager and the line that uses it. ``internal`` marks PyTorch's own code.
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
    """A thread that changed a mode, first at ``began_ns``; ``inherited`` if it is older than the capture."""

    id: int
    name: str
    ident: int
    began_ns: int
    inherited: bool


@dataclass(frozen=True)
class Fold:
    """Sum of the finished blocks of one site, thread, state and outcome that were not kept one by one.

    ``state`` packs the modes before and, four bits higher, inside; ``durations`` counts the blocks by duration class.
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
    """Sum of operators without their regions: the bytes they saved, then the fields of ``OpCounts``."""

    site: int
    operation: int
    thread: int
    sums: list[int]


@dataclass
class Batch:
    """Records that one transaction adds to a recording."""

    blocks: list[EventBlock] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    names: list[tuple[int, str]] = field(default_factory=list)
    threads: list[Thread] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    folds: list[Fold] = field(default_factory=list)
    op_folds: list[OpFold] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) for f in fields(self))


@dataclass(frozen=True)
class Contents:
    """All records of a recording of one process."""

    meta: dict[str, Any]
    blocks: list[EventBlock]
    sites: dict[int, Site]
    names: dict[int, str]
    threads: dict[int, Thread]
    folds: list[Fold]
    notes: list[Note]
    operations: dict[int, Operation] = field(default_factory=dict)
    accounts: OpRows = field(default_factory=dict)
    op_folds: list[OpFold] = field(default_factory=list)
