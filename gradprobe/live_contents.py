"""The contents of a recording while its recorder writes it, and afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gradprobe.capture.session import Session
from gradprobe.recording.contents import Contents
from gradprobe.recording.notes import NoteKind
from gradprobe.recording.sqlite_file import read_file
from gradprobe.recording.writer import Writer


class LiveRecording:
    """Source of a recording that this process writes, or has written.

    Args:
        session: The session that the writer is attached to.
        writer: The writer of the recording.
        path: Its file; None if it is kept in memory.
        is_running: Returns whether the recorder has not been stopped yet.
    """

    def __init__(self, session: Session, writer: Writer, path: Path | None, is_running: Callable[[], bool]) -> None:
        self._session, self._writer, self._path, self._is_running = session, writer, path, is_running
        self._process = os.getpid()

    @property
    def is_final(self) -> bool:
        """True once the recorder is stopped, and in a process that was forked while it ran."""
        return not self._is_running() or self._process != os.getpid()

    def read(self) -> list[Contents]:
        """Return what is recorded so far; after the end, what the file contains."""
        writer, runs_here = self._writer, not self.is_final
        if self._path is not None and not self._is_running():
            contents = read_file(self._path)
        else:
            with self._session.lock:
                if runs_here:
                    self._session.drain(takes_all=True)
                contents = writer.store.read()
        # Why it has no end, which is not in the file if that cannot be written.
        reason = describe_failure(writer) or ("it still runs" if runs_here else None)
        return [
            contents if reason is None else replace(contents, notes=[*contents.notes, (NoteKind.CUT_OFF, reason, 1)])
        ]


def describe_failure(writer: Writer) -> str | None:
    """Return why a recording could not be written to its end, and how much is missing; None if it could."""
    return None if writer.failure is None else f"{writer.failure}; {writer.lost} events after that are missing"
