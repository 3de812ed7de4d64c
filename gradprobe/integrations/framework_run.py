"""A recording per run of a framework, with the framework's phases; its findings go to the framework's own logger."""

from __future__ import annotations

import functools
import itertools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from gradprobe import _rank
from gradprobe._files import SUFFIX
from gradprobe.analysis.findings import find_all
from gradprobe.analysis.findings.catalogue import ERROR, NOTE
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.suppression import load_suppression
from gradprobe.errors import GradprobeError
from gradprobe.phases import phase
from gradprobe.recorder import Recorder
from gradprobe.report.formats.findings_text import format_findings
from gradprobe.result import Recording


class Logger(Protocol):
    """Logger of a framework."""

    def log(self, level: int, msg: object, *args: object) -> None:
        """Log a message at a level."""


class FrameworkRun:
    """Recorder of the runs of one framework's object, such as a trainer.

    A run lasts from the begin of its outermost phase to the end of that phase. Errors of gradprobe are logged, and never
    reach the framework.
    """

    def __init__(self, logger: Logger, *, level: str, folder: str | os.PathLike[str] | None) -> None:
        """Prepare runs at a level of detail; their files go to ``folder``, None keeps the recordings in memory."""
        self.recording: Recording | None = None
        self._logger, self._level = logger, level
        self._folder = None if folder is None else Path(folder)
        self._recorder: Recorder | None = None
        self._phases: list[phase] = []

    @property
    def is_open(self) -> bool:
        """Return whether a run is being recorded."""
        return bool(self._phases)

    def begin(self, name: str) -> None:
        """Begin a phase, and a recording if no phase is open."""
        if not self._phases:
            self._guard(lambda: self._start(name))
        opened = phase(name)
        opened.start()
        self._phases.append(opened)

    def end(self, name: str) -> None:
        """End a phase and those inside it; with the outermost one the recording ends, and its findings are logged."""
        if name not in [each.name for each in self._phases]:
            return
        is_over = False
        while not is_over:
            ended = self._phases.pop()
            ended.stop()
            is_over = ended.name == name
        if not self._phases:
            self._guard(self._finish)

    def end_all(self) -> None:
        """End the run, as after an exception."""
        if self._phases:
            self.end(self._phases[0].name)

    def wrap(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method that is a phase of this name while it runs."""

        @functools.wraps(method)
        def in_phase(*args: Any, **kwargs: Any) -> Any:
            self.begin(name)
            try:
                return method(*args, **kwargs)
            finally:
                self.end(name)

        return in_phase

    def _start(self, name: str) -> None:
        path = None if self._folder is None else _choose_file(self._folder, name)
        try:
            recorder = Recorder(path, level=self._level)
            self.recording = recorder.start()
        except GradprobeError as error:
            if self._level != "ops" or (path is not None and path.exists()):
                raise
            self._logger.log(logging.WARNING, "gradprobe: recording at level graph instead of ops: %s", error)
            recorder = Recorder(path, level="graph")
            self.recording = recorder.start()
        self._recorder = recorder

    def _finish(self) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return
        self.recording = recorder.stop()
        findings, _ = load_suppression(Path()).split(find_all(self.recording._tables))
        for finding in findings:
            self._logger.log(_choose_level(finding), "gradprobe: %s", "\n".join(format_findings([finding])))
        serious = sum(finding.severity != NOTE for finding in findings)
        where = "" if recorder.path is None else f"; gradprobe report {recorder.path}"
        self._logger.log(logging.INFO, "gradprobe: %d findings, %d notes%s", serious, len(findings) - serious, where)

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._logger.log(logging.WARNING, "gradprobe: cannot record this run: %s: %s", type(error).__name__, error)


def _choose_level(finding: Finding) -> int:
    if finding.severity == ERROR:
        return logging.ERROR
    return logging.INFO if finding.severity == NOTE else logging.WARNING


def _choose_file(folder: Path, name: str) -> Path:
    """Return a new file of a run in a folder, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    rank = _rank.read_rank()
    stem = name if rank is None else f"{name}.rank{rank}"
    paths = (folder / f"{stem}-{number}{SUFFIX}" for number in itertools.count(1))
    return next(path for path in paths if not path.exists())
