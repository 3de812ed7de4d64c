"""Tensors that were saved for backward and changed in place since: by which line, and which forward needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gradprobe.capture.autograd.graph import find_modified_saved_tensor
from gradprobe.capture.autograd.saved_storages import SAVED_STORAGES, storage_of
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.recording.notes import SourceLocation

_MOST = 10_000


class ModifiedSavedTensorDetector:
    """The storages that one thread changed after a node had saved them, and by which line."""

    def __init__(self, sightings: DetectionLog, origin: Callable[[int], tuple[int, int] | None]) -> None:
        self._sightings, self._origin = sightings, origin
        self._suspects: dict[int, tuple[int, int]] = {}

    def write(self, storage: int, code: int, offset: int) -> None:
        """An operator at a place changed a tensor over ``storage``."""
        if storage in SAVED_STORAGES.since_backward and len(self._suspects) < _MOST:
            self._suspects[storage] = code, offset

    def backward(self, outputs: list[torch.Tensor], at: SourceLocation | None) -> None:
        """A backward begins: whether it will meet a tensor that is not what was saved."""
        suspects, self._suspects = self._suspects, {}
        if suspects:
            found = find_modified_saved_tensor(outputs)
            if found is not None:
                self._tell(*found, suspects, at)
        SAVED_STORAGES.since_backward.clear()

    def _tell(self, node: Any, saved: Any, suspects: dict[int, tuple[int, int]], at: SourceLocation | None) -> None:
        held = self._sightings.codes.held
        by = suspects.get(storage_of(saved))
        made = self._origin(type(node)._sequence_nr(node))
        changed = None if by is None else locate_instruction("changed in place here", held.get(by[0]), by[1])
        forward = None if made is None else locate_instruction("saved by the forward here", held.get(made[0]), made[1])
        name = str(type(node).name(node))
        if changed is not None:
            locations = [changed, forward, at]
            self._sightings.changed = tuple(spot for spot in locations if spot is not None)
            self._sightings.add("GP601", locations, node=name, shape=list(saved.shape))
