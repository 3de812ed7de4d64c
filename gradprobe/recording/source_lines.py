"""Source text of the recorded lines, kept with a recording so that it can be read where the files have changed.

A line number alone means nothing once a line was inserted above it. The text is read when a recording ends, from the files
as they are then; of a program that was killed there is none.
"""

from __future__ import annotations

import json
import os
import stat
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator

from gradprobe.recording.notes import Note, NoteKind

MAX_TEXT = 200
"""Maximum number of characters kept of a line."""
_MAX_FILE_BYTES = 4 << 20

SourceLines = dict[tuple[str, int], str]
"""Text of lines by file and number, without the white space around it."""

_cache: dict[str, tuple[tuple[int, int], list[str]]] = {}
"""Lines of the files that were read, with the time and size that they had: recordings of one program read them often."""


def write_source_lines(places: Iterable[tuple[str, int]]) -> Iterator[Note]:
    """Yield a note per file with the text of ``places``, each a file and a line. Unreadable files are left out."""
    wanted: dict[str, set[int]] = defaultdict(set)
    for file, line in places:
        wanted[file].add(line)
    for file, numbers in sorted(wanted.items()):
        lines = _read_file(file)
        texts = {n: text for n in sorted(numbers) if 1 <= n <= len(lines) and (text := lines[n - 1].strip()[:MAX_TEXT])}
        if texts:
            yield str(NoteKind.SOURCE), json.dumps([file, texts]), 1


def read_source_lines(notes: Iterable[Note]) -> SourceLines:
    """Return the lines that a recording's notes hold. Notes that do not parse are left out."""
    found: SourceLines = {}
    for kind, text, _ in notes:
        if kind != NoteKind.SOURCE:
            continue
        try:
            file, texts = json.loads(text)
            found |= {(str(file), int(number)): str(line) for number, line in texts.items()}
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            continue
    return found


def _read_file(file: str) -> list[str]:
    """Return the lines of a Python file; none if it is something else or cannot be read."""
    try:
        status = os.stat(file)
        if not file.endswith(".py") or not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_FILE_BYTES:
            return []
        version = status.st_mtime_ns, status.st_size
        known = _cache.get(file)
        if known is None or known[0] != version:
            with tokenize.open(file) as opened:
                known = _cache[file] = version, opened.read().splitlines()
        return known[1]
    except (OSError, ValueError, SyntaxError):
        return []
