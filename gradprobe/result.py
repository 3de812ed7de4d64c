"""``Recording``: what users hold once something was recorded, and ``load`` and ``merge``, which make one from files."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradprobe.errors import GradprobeError
from gradprobe.recording.store import SUFFIX, Contents, read_file, write_file

if TYPE_CHECKING:
    import pandas as pd

    from gradprobe.recording.tables import Tables


class Recording:
    """What was seen of one process, or of several on one time axis.

    ``transitions``, ``regions``, ``sites``, ``ops``, ``findings`` and ``calls`` are pandas DataFrames; times are in
    nanoseconds since the recording began, what was not measured is NaN or NA, never 0. ``environment`` is a dict.
    ``str()`` gives the terminal report. A recording that is still growing is read anew at each access.
    """

    def __init__(
        self,
        read: Callable[[], Sequence[Contents]],
        *,
        include_torch: bool | None = None,
        is_final: Callable[[], bool] = lambda: True,
    ) -> None:
        self._read = read
        self._include_torch = include_torch
        self._is_final = is_final
        self._known: Tables | None = None

    @property
    def tables(self) -> Tables:
        """The recording as it stands now."""
        from gradprobe.recording.tables import Tables

        if self._known is not None:
            return self._known
        is_final = self._is_final()
        tables = Tables(self._read(), include_torch=self._include_torch)
        if is_final:
            self._known = tables
        return tables

    @property
    def transitions(self) -> pd.DataFrame:
        """One row per enter, exit and set, in order."""
        return self.tables.transitions

    @property
    def regions(self) -> pd.DataFrame:
        """One row per block, and per plain call with what followed it."""
        return self.tables.regions

    @property
    def sites(self) -> pd.DataFrame:
        """One row per manager and source line, the longest total time first."""
        return self.tables.sites

    @property
    def ops(self) -> pd.DataFrame:
        """One row per region, operator, line and module, at level ops."""
        return self.tables.ops

    @property
    def births(self) -> pd.DataFrame:
        """One row per place and region where inference tensors were born that outlived inference mode, at level ops."""
        return self.tables.births

    @property
    def findings(self) -> pd.DataFrame:
        """One row per finding; empty, since this version has no rules."""
        return self.tables.findings

    @property
    def calls(self) -> pd.DataFrame:
        """One row per call of a probed function, and per resumption where it is a generator or a coroutine."""
        return self.tables.calls

    @property
    def environment(self) -> dict[str, Any]:
        """Where it was recorded; of several processes, those of the first, and all of them under ``processes``."""
        environments = [process.environment for process in self.tables.processes]
        if len(environments) == 1:
            return environments[0]
        return {**environments[0], "processes": environments} if environments else {}

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Writes the recording of one process to a new file. Raises ``GradprobeError`` if it exists, unless ``force``."""
        target = Path(path)
        contents = self.tables.contents
        if len(contents) != 1:
            raise GradprobeError("a merged recording stays in the files it was merged from; save each of those")
        make_room(target, force=force)
        write_file(target, contents[0])

    def summary(self) -> None:
        """Prints the terminal report."""
        print(self)

    def __str__(self) -> str:
        from gradprobe.report import build, terminal

        return terminal.render(build.document(self.tables)).rstrip("\n")

    def __repr__(self) -> str:
        tables = self.tables
        state = "" if tables.is_complete else ", still growing or cut off"
        return f"<gradprobe.Recording: {len(tables.transitions)} transitions, {len(tables.sites)} sites{state}>"

    def to_markdown(self) -> str:
        """The report as GitHub-flavoured Markdown."""
        from gradprobe.report import build, markdown

        return markdown.render(build.document(self.tables))

    def to_json(self) -> str:
        """The recording as JSON, with the keys that docs/report.md describes."""
        from gradprobe.report import json_format

        return json_format.render(self.tables)


def load(path: str | os.PathLike[str], *, include_torch: bool | None = None) -> Recording:
    """The recording in a file. ``include_torch`` shows or hides PyTorch's own blocks; by default as it was recorded.

    Raises ``RecordingError`` for a file that is missing, no recording, damaged, or of a newer schema.
    """
    contents = [read_file(Path(path))]
    return Recording(lambda: contents, include_torch=include_torch)


def merge(paths: Iterable[str | os.PathLike[str]], *, include_torch: bool | None = None) -> Recording:
    """The recordings of several processes or ranks on one time axis, which begins with the earliest of them.

    Each process's clock is put on the axis by the wall clock at its start. Raises as ``load`` does, and ``GradprobeError``
    where there is no path.
    """
    if isinstance(paths, str | os.PathLike):
        raise GradprobeError(f"merge takes a list of paths, not one; load({os.fspath(paths)!r}) reads one")
    contents = [read_file(Path(path)) for path in paths]
    if not contents:
        raise GradprobeError(f"there is nothing to merge; give the {SUFFIX} files of the processes")
    return Recording(lambda: contents, include_torch=include_torch)


def check_room(path: Path, *, force: bool) -> None:
    """Raises ``GradprobeError`` unless a file can be made at ``path``; one that is there is refused without ``force``."""
    try:
        status = path.stat()
    except FileNotFoundError:
        status = None
    except OSError as error:
        raise GradprobeError(f"cannot write {path}: {error.strerror}; name another file") from None
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise GradprobeError(f"cannot write {path}: it is a folder; name a file in it")
    if not path.parent.is_dir():
        raise GradprobeError(f"cannot write {path}: there is no folder {path.parent}; create it first")
    if status is None:
        return
    if not stat.S_ISREG(status.st_mode):
        raise GradprobeError(f"cannot write {path}: it is no regular file; name another")
    if not force:
        raise GradprobeError(f"{path} exists already; name another file, or overwrite it with --force (force=True)")


def make_room(path: Path, *, force: bool) -> None:
    """Sees to it that a file can be made at ``path``; what is there is refused, or with ``force`` removed."""
    check_room(path, force=force)
    for file in (path, path.with_name(path.name + "-journal")):
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise GradprobeError(f"cannot overwrite {file}: {error.strerror}; name another file") from None


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` to ``path``, whole or not at all: what is there stays until all of the new text is on the disk."""
    part = path.with_name(f".{path.name[:100]}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise GradprobeError(f"cannot write {path}: {error.strerror}; make room there, or name another file") from None
