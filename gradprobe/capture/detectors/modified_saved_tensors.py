"""Detector of tensors that were saved for backward and modified in place since (GP601)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gradprobe.capture.autograd.graph import find_modified_saved_tensor
from gradprobe.capture.autograd.storages import storage_of
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.recording.notes import SourceLocation

Suspects = dict[int, tuple[int, int]]
"""Addresses of storages that were written after a node had saved them, with code and offset of the line that wrote."""


class ModifiedSavedTensorDetector:
    """Detector of one thread.

    Args:
        log: Receives the detections.
        origins_between: Returns the lines of the thread's nodes whose sequence numbers are in a range.
        take_suspects: Returns the suspects of the thread, because a backward begins.
    """

    def __init__(
        self,
        log: DetectionLog,
        origins_between: Callable[[int, int], list[tuple[int, int]]],
        take_suspects: Callable[[], Suspects],
    ) -> None:
        self._log, self._origins_between, self._take_suspects = log, origins_between, take_suspects

    def on_backward(self, outputs: list[torch.Tensor], backward_at: SourceLocation | None) -> None:
        """Report the first modified saved tensor that the backward that begins will meet."""
        suspects = self._take_suspects()
        if suspects:
            found = find_modified_saved_tensor(outputs)
            if found is not None:
                self._report(*found, suspects, backward_at)

    def _report(self, node: Any, saved: Any, suspects: Suspects, backward_at: SourceLocation | None) -> None:
        held = self._log.codes.held
        writer = suspects.get(storage_of(saved))
        number = type(node)._sequence_nr(node)
        origin = next(iter(self._origins_between(number, number)), None)
        modified = (
            None if writer is None else locate_instruction("modified in place here", held.get(writer[0]), writer[1])
        )
        forward = (
            None if origin is None else locate_instruction("saved by the forward here", held.get(origin[0]), origin[1])
        )
        name = str(type(node).name(node))
        if modified is not None:
            locations = [modified, forward, backward_at]
            self._log.modified_saved = tuple(location for location in locations if location is not None)
            self._log.add("GP601", locations, node=name, shape=list(saved.shape))
