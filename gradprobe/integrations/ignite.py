"""Handler for the engines of PyTorch-Ignite."""

from __future__ import annotations

import logging
import os

from ignite.engine import Engine

from gradprobe.integrations.framework_run import FrameworkRun
from gradprobe.result import Recording


class GradprobeHandler:
    """Record each run of an engine, with a phase per engine.

    The outermost run is a recording: that of an evaluator inside a handler of the trainer is a phase of the trainer's. Its
    findings go to the logger ``ignite.gradprobe``.

    Args:
        level: Amount of detail, as for ``gradprobe.record``. Most rules need ``"ops"``, which falls back to
            ``"graph"`` with a warning where it is not available.
        folder: Folder for a file per run, such as ``fit-1.gradprobe``; None keeps the last recording in memory.

    Attributes:
        recording: The recording of the last run, None before the first.

    Example::

        from gradprobe.integrations.ignite import GradprobeHandler

        handler = GradprobeHandler()
        handler.attach(trainer)
        handler.attach(evaluator, "validate")
    """

    def __init__(self, *, level: str = "ops", folder: str | os.PathLike[str] | None = None) -> None:
        self._run = FrameworkRun(logging.getLogger("ignite.gradprobe"), level=level, folder=folder)

    @property
    def recording(self) -> Recording | None:
        """Recording of the last run."""
        return self._run.recording

    def attach(self, engine: Engine, phase: str = "fit") -> None:
        """Record the runs of an engine as a phase.

        The method ``run`` of that engine alone is replaced. An engine with a handler of ``EXCEPTION_RAISED`` no longer
        raises, so that a handler there would change the program.

        Args:
            engine: The engine, such as a trainer or an evaluator.
            phase: Name of the phase.
        """
        if "run" not in vars(engine):
            engine.run = self._run.wrap(phase, engine.run)  # type: ignore[method-assign, unused-ignore]

    def detach(self, engine: Engine) -> None:
        """Record no further runs of an engine."""
        vars(engine).pop("run", None)
