"""Recordings that no longer change: ``load`` and ``merge`` read them from files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from gradprobe._files import SUFFIX
from gradprobe.errors import InvalidArgument
from gradprobe.recording.contents import Contents
from gradprobe.recording.sqlite_file import read_file
from gradprobe.recording_formats import AnyPath
from gradprobe.result import Recording


class StoredRecording:
    """A recording that no longer changes, such as the contents of files."""

    is_final = True

    def __init__(self, contents: Sequence[Contents]) -> None:
        self._contents = contents

    def read(self) -> Sequence[Contents]:
        """Return the contents, one per process."""
        return self._contents


def load(path: AnyPath, *, include_torch: bool | None = None) -> Recording:
    """Read the recording in a file. Reading runs no code from the file and needs no torch.

    Args:
        path (str or os.PathLike): file that ``record``, ``Recording.save`` or ``gradprobe run`` wrote.
        include_torch (bool, optional): show or hide the blocks that PyTorch's own code enters. Default: None, as it was
            recorded.

    Returns:
        Recording: the recording, complete or up to the moment at which its process was killed.

    Raises:
        RecordingError: the file is missing, is not a recording, is damaged, or has a newer schema.

    Example::

        recording = gradprobe.load("run.gradprobe")
        print(recording)
    """
    return Recording(StoredRecording([read_file(Path(path))]), include_torch=include_torch)


def merge(paths: Iterable[AnyPath], *, include_torch: bool | None = None) -> Recording:
    """Read the recordings of several processes or ranks onto one time axis.

    The axis begins with the earliest recording. The clock of each process is placed on it by the wall clock at its start.

    Args:
        paths (iterable of str or os.PathLike): files of the processes, one each.
        include_torch (bool, optional): show or hide the blocks that PyTorch's own code enters. Default: None, as they were
            recorded.

    Returns:
        Recording: all recordings as one; the column ``process`` distinguishes them.

    Raises:
        InvalidArgument: ``paths`` is empty, one path instead of several, or the same recording twice.
        RecordingError: as for ``load``.

    Example::

        recording = gradprobe.merge(sorted(Path("runs").glob("*.gradprobe")))
    """
    if isinstance(paths, str | os.PathLike):
        raise InvalidArgument(f"paths must be a list of paths, got one path; use load({os.fspath(paths)!r}) to read it")
    given = [Path(path) for path in paths]
    contents = [read_file(path) for path in given]
    known: dict[object, Path] = {}
    for path, content in zip(given, contents, strict=True):
        identity = [content.meta.get(name) for name in ("began_wall_ns", "began_ns", "environment")]
        other = known.setdefault(repr(identity), path)
        if other is not path:
            raise InvalidArgument(
                f"cannot merge {path}: it is the same recording as {other}, which would count twice; give it once"
            )
    if not contents:
        raise InvalidArgument(f"cannot merge an empty list of recordings; give the {SUFFIX} files of the processes")
    return Recording(StoredRecording(contents), include_torch=include_torch)
