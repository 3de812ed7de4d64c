"""Events on the inference tensors that a session saw escape: their creation sites, and which are still referenced."""

from __future__ import annotations

import weakref
from _thread import get_ident as thread
from collections import Counter
from collections.abc import Callable
from sys import _getframe
from typing import Any

from gradprobe.capture.autograd.creation import REGISTRY, CreationRecord, find_holder_names
from gradprobe.capture.detectors.detection_log import DetectionLog
from gradprobe.capture.detectors.persistent_tensors import PersistentTensorDetector
from gradprobe.capture.location.module_paths import ModulePaths
from gradprobe.capture.ops.native.observer import NativeObserver
from gradprobe.recording.events import ESCAPED_TENSORS, OP_ROWS, Event
from gradprobe.recording.op_rows import FORWARD


class InferenceTensorEvents:
    """The inference tensors of one session that escaped, and the events that report them."""

    def __init__(
        self,
        emit: Callable[[Event], object],
        now: Callable[[], int],
        paths: ModulePaths,
        log: DetectionLog,
        persistent: PersistentTensorDetector,
    ) -> None:
        self._emit, self._now, self._paths, self._log, self._persistent = emit, now, paths, log, persistent

    def on_materialized(self, tensor: Any, observer: NativeObserver) -> None:
        """Take in that a lazy parameter or buffer has got its memory, which makes it an inference tensor in that mode."""
        frame = self._log.codes.find_user_frame(_getframe(1))
        if frame is not None:
            now = self._now()
            place = (frame.f_code, frame.f_lasti, "materialize", "")
            record: CreationRecord = (weakref.ref(tensor), now, *place, now, thread())
            REGISTRY.add_materialized(tensor, record)
            self._persistent.add_materialized(record)
            observer.request_look()

    def forget(self, tensor: Any) -> None:
        """Drop all references to ``tensor``, because it is about to be swapped."""
        REGISTRY.forget(tensor)
        self._persistent.forget_tensor(tensor)

    def on_escaped(self, records: list[CreationRecord]) -> None:
        """Look where the program keeps the inference tensors that exist as a thread leaves that mode.

        Args:
            records: Those among them whose line has made none before that did.
        """
        for record in records:
            self._persistent.add_line(record)
        self._persistent.look_if_time(_getframe(1))

    def emit_live(self, observer: NativeObserver) -> None:
        """Emit the escaped inference tensors that are still referenced, and the modules that hold them."""
        alive = [(record, tensor) for record in observer.take_escaped() if (tensor := record[0]()) is not None]
        names = find_holder_names(self._paths.list_roots(), {id(tensor) for _, tensor in alive})
        groups = Counter((*_creation_key(record), names.get(id(tensor))) for record, tensor in alive)
        for (code, offset, op, module, owner, name), count in groups.items():
            marker = (ESCAPED_TENSORS, self._now(), owner, code, offset, (op, name, module, FORWARD))
            self._emit((OP_ROWS, "outliving", marker, [(0, 0, 0, count)]))


def _creation_key(record: CreationRecord) -> tuple[int, int, str, str, int]:
    _, _, code, offset, op, module, _, owner = record
    return 0 if code is None else id(code), offset, op, module, owner
