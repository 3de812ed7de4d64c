"""Tracker for Hugging Face's Accelerate."""

from __future__ import annotations

import logging
import os
from typing import Any

from accelerate.tracking import GeneralTracker

from gradprobe.integrations.framework_run import FrameworkRun
from gradprobe.result import Recording

_PHASE = "fit"


class GradprobeTracker(GeneralTracker):  # type: ignore[misc, unused-ignore]
    """Record from ``accelerator.init_trackers`` to ``accelerator.end_training``, each process by itself.

    The findings go to the logger ``accelerate.gradprobe``. The whole is the phase ``fit``; ``gradprobe.phase`` names the
    parts of a loop.

    Args:
        level: Amount of detail, as for ``gradprobe.record``. Most rules need ``"ops"``, which falls back to
            ``"graph"`` with a warning where it is not available.
        folder: Folder for a file per run and rank, such as ``fit-1.gradprobe``; None keeps the last recording in memory.

    Attributes:
        recording: The recording of the last run, None before the first.

    Example::

        from gradprobe.integrations.accelerate import GradprobeTracker

        accelerator = Accelerator(log_with=["tensorboard", GradprobeTracker()])
    """

    name = "gradprobe"
    requires_logging_directory = False
    main_process_only = False

    def __init__(self, *, level: str = "ops", folder: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        self._run = FrameworkRun(logging.getLogger("accelerate.gradprobe"), level=level, folder=folder)

    @property
    def recording(self) -> Recording | None:
        """Recording of the last run."""
        return self._run.recording

    @property
    def tracker(self) -> Recording | None:
        """Recording of the last run, by the name that Accelerate gives it."""
        return self._run.recording

    def start(self) -> None:
        """Begin the recording; versions of Accelerate without this event begin it with the first of the others."""
        if not self._run.is_open:
            self._run.begin(_PHASE)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Begin the recording, if that was not done."""
        self.start()

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Begin the recording, if that was not done. The values are for other trackers."""
        self.start()

    def finish(self) -> None:
        """End the recording, and log its findings."""
        self._run.end_all()
