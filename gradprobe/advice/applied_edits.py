"""Edits of the user's files, which are written only over what was read, and can be taken back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gradprobe.advice.manager_sites import Site, SourceFile
from gradprobe.advice.source_edits import exchange_in_source
from gradprobe.errors import GradprobeError


class AppliedEdits:
    """Exchanges of managers in files, of which some are written at any time.

    Args:
        files: The files as they were read, by their names.
    """

    def __init__(self, files: Mapping[str, SourceFile]) -> None:
        self._files = files
        self._written = {name: file.encode(file.text) for name, file in files.items()}

    def write(self, sites: Sequence[Site]) -> None:
        """Let the files have these edits and no others.

        Raises:
            GradprobeError: A file has changed since it was read, or cannot be written.
        """
        for name, file in self._files.items():
            chosen = [site for site in sites if site.file == name]
            content = file.encode(exchange_in_source(file, chosen))
            if content == self._written[name]:
                continue
            if Path(name).read_bytes() != self._written[name]:
                raise GradprobeError(f"cannot edit {name}: it has changed since it was read; run advise again")
            _write(name, content)
            self._written[name] = content


def write_source(file: SourceFile, text: str) -> None:
    """Replace the text of a file.

    Raises:
        GradprobeError: The file cannot be written.
    """
    _write(file.file, file.encode(text))


def _write(name: str, content: bytes) -> None:
    try:
        Path(name).write_bytes(content)  # in place, so that links and permissions stay
    except OSError as error:
        raise GradprobeError(f"cannot edit {name}: {error.strerror}; correct it by hand") from None
