"""Callback for the ``Trainer`` of Hugging Face's transformers."""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Any

from transformers.trainer_callback import TrainerCallback
from transformers.utils import logging

from gradprobe.integrations.framework_run import FrameworkRun
from gradprobe.result import Recording

_PHASES = {"train": "fit", "evaluate": "validate", "predict": "predict", "_save_checkpoint": "save"}
"""Phases by the method of the trainer. It has events after evaluation, prediction and saving, and none before."""
_MAX_FRAMES = 10


class GradprobeCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Record each run of a trainer, with the phases ``fit``, ``validate``, ``predict`` and ``save``.

    ``trainer.train()`` is a run, with its evaluations and checkpoints; ``evaluate()`` and ``predict()`` outside of it are
    runs of their own. At the end of a run its findings go to the logger of transformers.

    Args:
        level: Amount of detail, as for ``gradprobe.record``. Most rules need ``"ops"``, which falls back to
            ``"graph"`` with a warning where it is not available.
        folder: Folder for a file per run, such as ``fit-1.gradprobe``; None keeps the last recording in memory.

    Attributes:
        recording: The recording of the last run, None before the first.

    Example::

        from gradprobe.integrations.transformers import GradprobeCallback

        trainer = Trainer(model, arguments, train_dataset=data, callbacks=[GradprobeCallback()])
    """

    def __init__(self, *, level: str = "ops", folder: str | os.PathLike[str] | None = None) -> None:
        self._run = FrameworkRun(logging.get_logger("transformers.gradprobe"), level=level, folder=folder)
        self._is_attached = self._began_by_event = False

    @property
    def recording(self) -> Recording | None:
        """Recording of the last run."""
        return self._run.recording

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make phases of the methods of the trainer that has been constructed."""
        self._attach(sys._getframe(1))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin a run of a trainer that got this callback after its construction."""
        self._attach(sys._getframe(1))
        if not self._run.is_open:
            self._began_by_event = True
            self._run.begin("fit")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End a run that ``on_train_begin`` began."""
        if self._began_by_event:
            self._began_by_event = False
            self._run.end("fit")

    def _attach(self, frame: FrameType | None) -> None:
        """Wrap the methods of the trainer that is calling, on that object alone."""
        for _ in range(_MAX_FRAMES):
            if frame is None or self._is_attached:
                return
            trainer = frame.f_locals.get("self")
            handler = getattr(trainer, "callback_handler", None)
            if handler is not None and self in handler.callbacks:
                for name, phase in _PHASES.items():
                    method = getattr(trainer, name, None)
                    if callable(method):
                        setattr(trainer, name, self._run.wrap(phase, method))
                self._is_attached = True
            frame = frame.f_back
