"""Callback for Lightning, of the package ``lightning`` or ``pytorch_lightning``, whichever the program has imported."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from gradprobe.integrations.framework_run import FrameworkRun
from gradprobe.result import Recording

if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules and not TYPE_CHECKING:
    from pytorch_lightning.callbacks import Callback

    _LOGGER = "pytorch_lightning.callbacks.gradprobe"
else:
    from lightning.pytorch.callbacks import Callback

    _LOGGER = "lightning.pytorch.callbacks.gradprobe"


class GradprobeCallback(Callback):
    """Record each run of a trainer, with the phases ``fit``, ``validate``, ``test``, ``predict`` and ``save``.

    ``trainer.fit``, ``validate``, ``test`` and ``predict`` are a run each. Its findings go to Lightning's logger.

    Args:
        level: Amount of detail, as for ``gradprobe.record``. Most rules need ``"ops"``, which falls back to
            ``"graph"`` with a warning where it is not available.
        folder: Folder for a file per run, such as ``fit-1.gradprobe``; None keeps the last recording in memory.

    Attributes:
        recording: The recording of the last run, None before the first.

    Example::

        from gradprobe.integrations.lightning import GradprobeCallback

        trainer = Trainer(callbacks=[GradprobeCallback()])
    """

    def __init__(self, *, level: str = "ops", folder: str | os.PathLike[str] | None = None) -> None:
        self._run = FrameworkRun(logging.getLogger(_LOGGER), level=level, folder=folder)
        self._stage = ""
        self._wrapped: list[tuple[Any, str]] = []

    @property
    def recording(self) -> Recording | None:
        """Recording of the last run."""
        return self._run.recording

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Begin the recording of a run."""
        self._run.end_all()  # of a run that an exception ended
        self._stage = str(getattr(stage, "value", stage))
        self._run.begin(self._stage)
        # There is a hook in the middle of saving and none at its end; the mode of a validation is entered before its hook.
        self._wrap(trainer, "save_checkpoint", "save")
        epochs = getattr(getattr(trainer, "fit_loop", None), "epoch_loop", None)
        self._wrap(getattr(epochs, "val_loop", None), "run", "validate")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """End the recording of a run, and log its findings."""
        self._unwrap()
        self._run.end(self._stage)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """End the recording of a run that raised."""
        self._unwrap()
        self._run.end_all()

    def _wrap(self, owner: Any, name: str, phase: str) -> None:
        """Make a method of one object a phase until the run ends."""
        method = getattr(owner, name, None)
        if callable(method) and name not in vars(owner):
            setattr(owner, name, self._run.wrap(phase, method))
            self._wrapped.append((owner, name))

    def _unwrap(self) -> None:
        while self._wrapped:
            owner, name = self._wrapped.pop()
            vars(owner).pop(name, None)
