"""``Recording``: what users hold once something was recorded, and ``load`` and ``merge``, which make one from files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradprobe._files import clear_path
from gradprobe.errors import GradprobeError
from gradprobe.recording.contents import Contents
from gradprobe.recording.sqlite_file import SUFFIX, read_file, write_file

if TYPE_CHECKING:
    import pandas as pd

    from gradprobe.tables.recording_tables import RecordingTables


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
        self._known: RecordingTables | None = None

    @property
    def tables(self) -> RecordingTables:
        """The recording as it stands now."""
        from gradprobe.analysis.analyzed_tables import AnalyzedTables

        if self._known is not None:
            return self._known
        is_final = self._is_final()
        tables = AnalyzedTables(self._read(), include_torch=self._include_torch)
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
        """One row per finding, the worst first: rule, severity, message, place, count, related places and fix."""
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
        clear_path(target, force=force)
        write_file(target, contents[0])

    def summary(self) -> None:
        """Prints the terminal report."""
        print(self)

    def __str__(self) -> str:
        return self._text("terminal").rstrip("\n")

    def __repr__(self) -> str:
        tables = self.tables
        state = "" if tables.is_complete else ", still growing or cut off"
        return f"<gradprobe.Recording: {len(tables.transitions)} transitions, {len(tables.sites)} sites{state}>"

    def to_markdown(self) -> str:
        """The report as GitHub-flavoured Markdown."""
        return self._text("markdown")

    def to_json(self) -> str:
        """The recording as JSON, with the keys that docs/report.md describes."""
        return self._text("json")

    def to_html(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Writes the report as one HTML file, which needs no network. Raises ``GradprobeError`` if it exists, unless
        ``force``."""
        self._save(path, "html", force=force)

    def _repr_html_(self) -> str:
        from gradprobe.report.formats import html_page
        from gradprobe.report.sections import recording_document

        return html_page.render_fragment(
            recording_document.build_document(self.tables, top=html_page.NOTEBOOK_MAX_ROWS, charts=True)
        )

    def to_csv(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Writes the sites to ``path`` and every other table beside it: of ``a.csv``, ``a.regions.csv`` and so on.

        Raises ``GradprobeError`` if one of them exists, unless ``force``.
        """
        self._save(path, "csv", force=force)

    def to_trace(
        self,
        path: str | os.PathLike[str],
        *,
        merge: str | os.PathLike[str] | None = None,
        force: bool = False,
    ) -> None:
        """Writes a trace for Perfetto, packed where ``path`` ends in `.gz`; ``merge`` names a trace that torch.profiler
        wrote of the same run, to have both on one time axis.

        Raises ``GradprobeError`` if the file exists, unless ``force``, and where ``merge`` is no such trace.
        """
        self._save(path, "trace", force=force, merge=None if merge is None else Path(merge))

    def _text(self, name: str) -> str:
        from gradprobe.report.formats.registry import find_format, render_text

        return render_text(self.tables, find_format(name))

    def _save(self, path: str | os.PathLike[str], name: str, *, force: bool, merge: Path | None = None) -> None:
        from gradprobe.report.formats.registry import find_format, save_report
        from gradprobe.report.formats.rendered import RenderOptions

        save_report(self.tables, Path(path), find_format(name), RenderOptions(merge=merge), force=force)


def load(path: str | os.PathLike[str], *, include_torch: bool | None = None) -> Recording:
    """The recording in a file. ``include_torch`` shows or hides PyTorch's own blocks; by default as it was recorded.

    Raises ``RecordingError`` for a file that is missing, no recording, damaged, or of a newer schema.
    """
    contents = [read_file(Path(path))]
    return Recording(lambda: contents, include_torch=include_torch)


def merge(paths: Iterable[str | os.PathLike[str]], *, include_torch: bool | None = None) -> Recording:
    """The recordings of several processes or ranks on one time axis, which begins with the earliest of them.

    Each process's clock is put on the axis by the wall clock at its start. Raises as ``load`` does, and ``GradprobeError``
    where there is no path, or two are of one recording.
    """
    if isinstance(paths, str | os.PathLike):
        raise GradprobeError(f"merge takes a list of paths, not one; load({os.fspath(paths)!r}) reads one")
    given = [Path(path) for path in paths]
    contents = [read_file(path) for path in given]
    known: dict[object, Path] = {}
    for path, content in zip(given, contents, strict=True):
        identity = [content.meta.get(name) for name in ("began_wall_ns", "began_ns", "environment")]
        other = known.setdefault(repr(identity), path)
        if other is not path:
            raise GradprobeError(f"{path}: the same recording as {other}, all of it would count twice; give it once")
    if not contents:
        raise GradprobeError(f"there is nothing to merge; give the {SUFFIX} files of the processes")
    return Recording(lambda: contents, include_torch=include_torch)
