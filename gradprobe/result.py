"""``Recording``, the result of recording a program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gradprobe._files import clear_path
from gradprobe.errors import GradprobeError
from gradprobe.recording.sqlite_file import write_file
from gradprobe.recording_formats import AnyPath, RecordingFormats

if TYPE_CHECKING:
    from gradprobe.analysis.why.explanation import Explanation


class Recording(RecordingFormats):
    """Everything that was recorded of one process, or of several on one time axis.

    ``record()``, ``probe()``, ``load()``, ``merge()`` and ``gather()`` return it; do not construct it. ``str(recording)``
    is the terminal report, and a notebook shows the HTML report. The tables are pandas DataFrames. Times are in nanoseconds
    (``*_ns``) since the recording began, sizes in bytes (``*_bytes``). A value that was not measured, at this level or at
    all, is NaN or ``pandas.NA``, never 0. A recording that is still running is read again at each access, so keep a table
    in a variable to work with one state of it.

    Attributes:
        transitions (pandas.DataFrame): one row per enter, exit and set of a mode.
        regions (pandas.DataFrame): one row per block, and per plain call with what followed it.
        sites (pandas.DataFrame): one row per context manager and source line.
        ops (pandas.DataFrame): one row per region, operator, line and module; level ``"ops"`` only.
        modes (pandas.DataFrame): one row per line and way in which a mode came about.
        births (pandas.DataFrame): creation sites of inference tensors that escaped; level ``"ops"`` only.
        findings (pandas.DataFrame): one row per finding.
        calls (pandas.DataFrame): one row per call of a probed function.
        flow (pandas.DataFrame): one row per way of tensors and what became of gradient on it; level ``"ops"`` only.
        parameters (pandas.DataFrame): one row per leaf: its uses, gradients and steps; level ``"ops"`` only.
        modules (pandas.DataFrame): one row per module, as a tree with totals; level ``"ops"`` only.
        graphs (pandas.DataFrame): one row per path of calls that constructed nodes; level ``"ops"`` only.
        graph_memory (pandas.DataFrame): one row per moment and line whose results held graphs; level ``"ops"`` only.
        custody (pandas.DataFrame): one row per holder that keeps graphs beyond their use; level ``"ops"`` only.
        environment (dict): versions, machine and process.

    Example::

        with gradprobe.record(level="ops") as recording:
            evaluate(model)
        print(recording)
        recording.sites.nlargest(5, "total_ns")
        recording.to_html("report.html")
    """

    def why(self, target: str) -> Explanation:
        """Explain a line, a parameter or a module: how gradient gets there or does not, and what keeps its graphs.

        Args:
            target (str): ``FILE:LINE``, or the dotted name of a parameter or module, of which the last parts are enough.

        Returns:
            Explanation: the story; ``str()`` of it is the text.

        Raises:
            InvalidArgument: the recording has nothing of this name; the message has the nearest names.

        Example::

            print(recording.why("encoder.weight"))
            print(recording.why("train.py:31"))
        """
        from gradprobe.analysis.why.targets import explain

        return explain(self._tables, target)

    def save(self, path: AnyPath, *, overwrite: bool = False, force: bool = False) -> None:
        """Save the recording of one process to a file that ``load`` reads.

        Args:
            path (str or os.PathLike): file to write, by custom with the suffix ``.gradprobe``.
            overwrite (bool): replace an existing file instead of refusing it. Default: False.
            force (bool): alias of ``overwrite``.

        Raises:
            GradprobeError: the file exists or cannot be written, or the recording was merged from several files.

        Example::

            recording.save("run.gradprobe", overwrite=True)
        """
        target = Path(path)
        contents = self._tables.contents
        if len(contents) != 1:
            raise GradprobeError("cannot save a merged recording; save the recordings it was merged from")
        clear_path(target, force=overwrite or force)
        write_file(target, contents[0])

    def summary(self) -> None:
        """Print the terminal report to standard output.

        Example::

            evaluate.recording.summary()
        """
        print(self)

    def __str__(self) -> str:
        return self._render("terminal").rstrip("\n")

    def __repr__(self) -> str:
        tables = self._tables
        state = "" if tables.is_complete else ", still growing or cut off"
        return f"<gradprobe.Recording: {len(tables.transitions)} transitions, {len(tables.sites)} sites{state}>"

    def _repr_html_(self) -> str:
        from gradprobe.report.formats import html_page
        from gradprobe.report.sections import recording_document

        return html_page.render_fragment(
            recording_document.build_document(self._tables, top=html_page.NOTEBOOK_MAX_ROWS, charts=True)
        )
