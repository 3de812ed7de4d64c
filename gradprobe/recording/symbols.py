"""Symbol tables: what the numbers in blocks of events refer to."""

from __future__ import annotations

from gradprobe.recording.contents import Site, Thread
from gradprobe.recording.op_rows import Operation


class SymbolTables:
    """Sites, names, threads and operations by number, shared by all recordings of a session."""

    def __init__(self) -> None:
        self.sites: dict[int, Site] = {}
        self.names: dict[int, str] = {}
        self.threads: dict[int, Thread] = {}
        self.operations: dict[int, Operation] = {}
