"""What has kept a tensor between the line that created it and the one that fails on it."""

from __future__ import annotations

from types import CodeType
from typing import Any

from gradprobe.capture.autograd.creation import REGISTRY, CreationRecord
from gradprobe.capture.autograd.graph import history_of
from gradprobe.capture.location.frames import FrameClassifier
from gradprobe.capture.location.handlers import FrameAt
from gradprobe.capture.location.holders import Holder, find_keeper

_MAX_KEEPERS = 64
"""Maximum number of pairs of lines that are looked up: a look goes through many objects."""
_MAX_RESULTS = 2_000


class KeptTensors:
    """The keepers of tensors that exceptions are about, looked for once for each pair of lines."""

    def __init__(self, codes: FrameClassifier) -> None:
        self._codes = codes
        self._found: dict[tuple[int, int, int, int], tuple[Holder | None, CodeType, CodeType | None]] = {}
        """Findings so far; the code objects are kept, because their identities are part of the key."""

    def find(self, place: FrameAt, record: CreationRecord, source: CreationRecord) -> Holder | None:
        """Return what keeps a tensor.

        Args:
            place: The line that fails.
            record: The record of the tensor.
            source: The record of the tensor that it was taken from, or ``record``.
        """
        frame, offset = place
        key = (id(frame.f_code), offset, id(record[2]), record[3])
        if key not in self._found and len(self._found) < _MAX_KEEPERS:
            tensors = [known for each in dict.fromkeys((record, source)) if (known := each[0]()) is not None]
            keepers = (find_keeper(tensor, self._codes, frame) for tensor in tensors)
            keeper = next((keeper for keeper in keepers if keeper is not None), None)
            self._found[key] = keeper, frame.f_code, record[2]
        return self._found[key][0] if key in self._found else None


def find_result(node: Any) -> CreationRecord | None:
    """Return the record of a living tensor that a node computed. Views are left out: reading their node may change it."""
    for record in REGISTRY.living()[:_MAX_RESULTS]:
        tensor = record[0]()
        if tensor is not None and not tensor.is_inference() and not tensor._is_view() and history_of(tensor) is node:
            return record
    return None
