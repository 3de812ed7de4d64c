"""The formats of a recording: files and texts, and reports to experiment trackers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, overload

from gradprobe.recorded_tables import RecordedTables

AnyPath = str | os.PathLike[str]


class RecordingFormats(RecordedTables):
    """The tables of a recording, and the formats that they are written in."""

    @overload
    def to_markdown(self, path: None = None, *, overwrite: bool = False, force: bool = False) -> str: ...
    @overload
    def to_markdown(self, path: AnyPath, *, overwrite: bool = False, force: bool = False) -> None: ...
    def to_markdown(self, path: AnyPath | None = None, *, overwrite: bool = False, force: bool = False) -> str | None:
        """Return the report as GitHub-flavoured Markdown, or write it to a file.

        Args:
            path (str or os.PathLike, optional): file to write. Default: None, which returns the text.
            overwrite (bool): replace an existing file instead of refusing it. Default: False.
            force (bool): alias of ``overwrite``.

        Returns:
            str or None: the text, or None if ``path`` is given.

        Raises:
            GradprobeError: the file exists or cannot be written.

        Example::

            print(recording.to_markdown())
        """
        return self._export("markdown", path, overwrite=overwrite or force)

    @overload
    def to_json(self, path: None = None, *, overwrite: bool = False, force: bool = False) -> str: ...
    @overload
    def to_json(self, path: AnyPath, *, overwrite: bool = False, force: bool = False) -> None: ...
    def to_json(self, path: AnyPath | None = None, *, overwrite: bool = False, force: bool = False) -> str | None:
        """Return the recording as JSON, or write it to a file. ``docs/report.md`` describes the keys.

        Args:
            path (str or os.PathLike, optional): file to write. Default: None, which returns the text.
            overwrite (bool): replace an existing file instead of refusing it. Default: False.
            force (bool): alias of ``overwrite``.

        Returns:
            str or None: the text, or None if ``path`` is given.

        Raises:
            GradprobeError: the file exists or cannot be written.

        Example::

            json.loads(recording.to_json())["findings"]
        """
        return self._export("json", path, overwrite=overwrite or force)

    @overload
    def to_html(self, path: None = None, *, overwrite: bool = False, force: bool = False) -> str: ...
    @overload
    def to_html(self, path: AnyPath, *, overwrite: bool = False, force: bool = False) -> None: ...
    def to_html(self, path: AnyPath | None = None, *, overwrite: bool = False, force: bool = False) -> str | None:
        """Write the report as one HTML page that needs no network, or return it.

        Args:
            path (str or os.PathLike, optional): file to write. Default: None, which returns the text.
            overwrite (bool): replace an existing file instead of refusing it. Default: False.
            force (bool): alias of ``overwrite``.

        Returns:
            str or None: the text, or None if ``path`` is given.

        Raises:
            GradprobeError: the file exists or cannot be written.

        Example::

            recording.to_html("report.html", overwrite=True)
        """
        return self._export("html", path, overwrite=overwrite or force)

    @overload
    def to_csv(self, path: None = None, *, overwrite: bool = False, force: bool = False) -> dict[str, str]: ...
    @overload
    def to_csv(self, path: AnyPath, *, overwrite: bool = False, force: bool = False) -> None: ...
    def to_csv(
        self, path: AnyPath | None = None, *, overwrite: bool = False, force: bool = False
    ) -> dict[str, str] | None:
        """Write every table as CSV, or return the texts.

        Args:
            path (str or os.PathLike, optional): file for the sites. The other tables are written beside it: with
                ``a.csv``, to ``a.regions.csv`` and so on. Default: None, which returns the texts.
            overwrite (bool): replace existing files instead of refusing them. Default: False.
            force (bool): alias of ``overwrite``.

        Returns:
            dict of str or None: the texts by the name of the table (``sites``, ``transitions``, ``regions``, ``modes``,
                ``phases``, ``ops``, ``births``, ``lifecycle``, ``calls``, ``flow``, ``parameters``, ``modules``,
                ``graphs``, ``custody``, ``findings``), or None if ``path`` is given.

        Raises:
            GradprobeError: one of the files exists or cannot be written; then none is touched.

        Example::

            recording.to_csv("run.csv")
            recording.to_csv()["regions"]
        """
        if path is not None:
            self._write("csv", path, overwrite=overwrite or force)
            return None
        from gradprobe.report.formats.csv_tables import render_tables

        return render_tables(self._tables)

    @overload
    def to_trace(
        self, path: None = None, *, merge: AnyPath | None = None, overwrite: bool = False, force: bool = False
    ) -> str: ...
    @overload
    def to_trace(
        self, path: AnyPath, *, merge: AnyPath | None = None, overwrite: bool = False, force: bool = False
    ) -> None: ...
    def to_trace(
        self, path: AnyPath | None = None, *, merge: AnyPath | None = None, overwrite: bool = False, force: bool = False
    ) -> str | None:
        """Write a trace in JSON for https://ui.perfetto.dev, or return it.

        Args:
            path (str or os.PathLike, optional): file to write, compressed if its name ends in ``.gz``. Default: None,
                which returns the text.
            merge (str or os.PathLike, optional): trace that torch.profiler exported of the same run, to have both on one
                time axis. Default: None.
            overwrite (bool): replace an existing file instead of refusing it. Default: False.
            force (bool): alias of ``overwrite``.

        Returns:
            str or None: the text, or None if ``path`` is given.

        Raises:
            GradprobeError: the file exists or cannot be written, or ``merge`` is not such a trace.

        Example::

            profiler.export_chrome_trace("torch.json")
            recording.to_trace("run.trace.json.gz", merge="torch.json")
        """
        trace = None if merge is None else Path(merge)
        return self._export("trace", path, overwrite=overwrite or force, torch_trace=trace)

    def log_to(self, target: Any, *, step: int | None = None, prefix: str = "gradprobe") -> None:
        """Log the recording to an experiment tracker: scalars, the findings, and the HTML report.

        The scalars are ``nodes``, ``saved_bytes``, ``time_share/MODE`` and ``findings/SEVERITY``, each after ``prefix`` and
        a slash. What the level of the recording does not measure is not logged. The findings are a table, and the report
        is an artifact; in TensorBoard, which has no artifacts, it is a file in the folder of the events.

        Args:
            target (SummaryWriter, Run or module): a ``SummaryWriter`` of PyTorch or tensorboardX, a run of Weights & Biases
                or of MLflow, or the module ``wandb`` or ``mlflow`` for its current run.
            step (int, optional): step of the run to log for, as the tracker counts them. Default: None, the tracker's
                own.
            prefix (str): beginning of all names. Recordings of one run need one each. Default: ``"gradprobe"``.

        Raises:
            InvalidArgument: ``target`` is not of a tracker that is supported; the message lists them.
            GradprobeError: the module has no current run, or the report cannot be written.

        Example::

            with gradprobe.record(level="ops") as recording:
                train_epoch(model)
            recording.log_to(SummaryWriter("runs/1"), step=epoch)
        """
        from gradprobe.report.trackers.tracked_report import build_report
        from gradprobe.report.trackers.tracker_registry import find_tracker

        tracker = find_tracker(target)
        tracker.log_report(build_report(self._tables, prefix=prefix, step=step), target)

    def _export(
        self, format_name: str, path: AnyPath | None, *, overwrite: bool, torch_trace: Path | None = None
    ) -> str | None:
        if path is None:
            return self._render(format_name, torch_trace)
        self._write(format_name, path, overwrite=overwrite, torch_trace=torch_trace)
        return None

    def _render(self, format_name: str, torch_trace: Path | None = None) -> str:
        from gradprobe.report.formats.registry import find_format
        from gradprobe.report.formats.rendered import RenderOptions

        body = find_format(format_name).render(self._tables, RenderOptions(torch_trace=torch_trace)).body
        return body if isinstance(body, str) else body.decode()

    def _write(self, format_name: str, path: AnyPath, *, overwrite: bool, torch_trace: Path | None = None) -> None:
        from gradprobe.report.formats.registry import find_format, save_report
        from gradprobe.report.formats.rendered import RenderOptions

        options = RenderOptions(torch_trace=torch_trace)
        save_report(self._tables, Path(path), find_format(format_name), options, force=overwrite)
