"""Detector of tensors that were saved for backward and modified in place since (GP601)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gradprobe.capture.autograd.graph import find_modified_saved_tensor
from gradprobe.capture.autograd.saved_storages import SAVED_STORAGES, storage_of
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.recording.notes import SourceLocation

_MAX_SUSPECTS = 10_000
"""Maximum number of modified storages tracked until the next backward."""


class ModifiedSavedTensorDetector:
    """Detector of one thread: the storages that it wrote to after a node had saved them, and the lines."""

    def __init__(self, log: DetectionLog, origin: Callable[[int], tuple[int, int] | None]) -> None:
        self._log, self._origin = log, origin
        self._suspects: dict[int, tuple[int, int]] = {}

    def on_storage_written(self, storage: int, code: int, offset: int) -> None:
        """Note that an operator wrote to a tensor over ``storage``."""
        if storage in SAVED_STORAGES.since_backward and len(self._suspects) < _MAX_SUSPECTS:
            self._suspects[storage] = code, offset

    def on_backward(self, outputs: list[torch.Tensor], backward_at: SourceLocation | None) -> None:
        """Report the first modified saved tensor that the backward that begins will meet."""
        suspects, self._suspects = self._suspects, {}
        if suspects:
            found = find_modified_saved_tensor(outputs)
            if found is not None:
                self._report(*found, suspects, backward_at)
        SAVED_STORAGES.since_backward.clear()

    def _report(
        self, node: Any, saved: Any, suspects: dict[int, tuple[int, int]], backward_at: SourceLocation | None
    ) -> None:
        held = self._log.codes.held
        writer = suspects.get(storage_of(saved))
        origin = self._origin(type(node)._sequence_nr(node))
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
