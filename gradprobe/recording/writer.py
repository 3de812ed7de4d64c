"""Writer of a growing recording: keeps or folds blocks of events, and writes them in batches."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

import numpy as np

from gradprobe.recording.contents import Batch, Thread
from gradprobe.recording.events import EventBlock
from gradprobe.recording.folding.blocks import BlockFolder
from gradprobe.recording.notes import NoteKind
from gradprobe.recording.source_lines import write_source_lines
from gradprobe.recording.sqlite_file import Store
from gradprobe.recording.symbols import SymbolTables

DEFAULT_LIMIT = 2_000_000
"""Maximum number of events kept one by one; a block takes two, one of ``set_grad_enabled`` three."""

AGGREGATE, STOP = "aggregate", "stop"
"""Choices for events beyond the limit: fold them, or leave them out."""


class Writer:
    """Writer of one recording.

    Past ``limit`` events it folds (``on_full="aggregate"``) or accepts no more (``"stop"``). ``names_ranges`` asks the
    capture to name blocks in the trace of torch.profiler too, and ``counts_parts`` to note the
    parts of composite operators.
    """

    def __init__(
        self,
        store: Store,
        tables: SymbolTables,
        *,
        level: str,
        limit: int,
        on_full: str,
        names_ranges: bool = False,
        counts_parts: bool = False,
    ) -> None:
        self.store = store
        self.names_ranges = names_ranges
        self.counts_parts = counts_parts
        self.keeps_events = True
        self.counts_nodes = level != "modes"
        self.counts_operators = level == "ops"
        self.failure: str | None = None
        self._tables = tables
        self._limit = limit
        self._on_full = on_full
        self._batch = Batch()
        self._folder = BlockFolder(tables.names, tables.sites)
        self._kept = 0
        self._is_full = False
        self._names = self._operations = 0
        self._sites: set[int] = set()
        self._stored_sites: set[int] = set()
        self._seen: set[int] = set()
        self._threads: dict[int, Thread] = {}
        self._lost = 0
        self._lines: set[tuple[str, int]] = set()

    def accept(self, block: EventBlock) -> None:
        """Add the next events."""
        if self.failure is not None:
            self._lost += len(block)
            return
        if not self.counts_operators:
            block = block.without_operators()
        self._seen.update(np.unique(block.thread).tolist())
        self._is_full = self._is_full or self._kept + len(block) > self._limit
        if self._is_full and self._on_full == STOP:
            text = f"the limit of {self._limit} events was reached; later ones were left out"
            self.note(NoteKind.FULL, text, len(block))
            return
        self._sites.update(np.unique(block.site).tolist())
        if self._is_full:
            block = self._folder.fold(block)
        if len(block) or block.accounts:
            self._kept += len(block)
            self._batch.blocks.append(block)

    def note(self, kind: str, text: str, count: int = 1) -> None:
        """Add to the count of something that a reader of the recording must know."""
        self._batch.notes.append((str(kind), text, count))

    def fault(self, text: str, count: int) -> None:
        """Note an error inside gradprobe."""
        self.note(NoteKind.FAULT, text, count)

    def note_sources(self) -> None:
        """Note the text of the lines that the recording refers to, as their files are now."""
        for kind, text, count in write_source_lines(self._lines):
            self.note(kind, text, count)

    def meta(self, **values: Any) -> None:
        """Set facts about the recording as a whole; the schema lists them."""
        self._batch.meta.update(values)

    def flush(self) -> bool:
        """Write the pending batch. Return False if a reader has locked the file, and the batch has to wait.

        A file that cannot be written ends the recording, never the program.
        """
        if self.failure is not None:
            return True
        batch = self._batch
        self._collect(batch)
        batch.folds = self._folder.take_changed()
        batch.op_folds = self._folder.operators.take_changed()
        if not batch:
            return True
        try:
            self.store.write(batch)
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                self._folder.changed.update((f.manager, f.site, f.thread, f.state, f.error) for f in batch.folds)
                self._folder.operators.changed.update((f.site, f.operation, f.thread) for f in batch.op_folds)
                return False  # the next flush writes this batch too
            self._fail(error)
        except Exception as error:  # of any kind: it must not end the thread that serves all recordings
            self._fail(error)
        else:
            self._batch = Batch()
        return True

    def _collect(self, batch: Batch) -> None:
        """Add to ``batch`` what is new in the symbol tables, which may drop it before it is written."""
        tables = self._tables
        # The tables have the places of other recordings too, whose files may be no part of what ran in this one.
        new_sites = [
            tables.sites[number] for number in sorted(self._sites - self._stored_sites) if number in tables.sites
        ]
        batch.sites += new_sites
        self._stored_sites |= self._sites
        self._lines.update(
            (site.file, site.line) for site in new_sites if site.file and site.line and not site.internal
        )
        # While events are accepted these tables only grow, and at their end, so their length shows what is new.
        batch.names += list(tables.names.items())[self._names :]
        batch.operations += list(tables.operations.values())[self._operations :]
        self._names, self._operations = len(tables.names), len(tables.operations)
        threads = [t for t in map(tables.threads.get, self._seen) if t and self._threads.get(t.id) != t]
        self._threads.update((t.id, t) for t in threads)
        batch.threads += threads

    def finish(self) -> None:
        """Write what is left, waiting up to ten seconds while readers lock the file."""
        for _ in range(100):
            if self.flush():
                return
            time.sleep(0.1)
        self._fail(TimeoutError("another process kept the file locked"))

    def _fail(self, error: Exception) -> None:
        self.failure = str(error) or type(error).__name__
        self._lost += sum(map(len, self._batch.blocks))
        self._batch = Batch()

    @property
    def folded(self) -> int:
        """Number of events that were added up instead of kept."""
        return self._folder.folded + self._folder.operators.folded

    @property
    def lost(self) -> int:
        """Number of events that came after the file could no longer be written."""
        return self._lost
