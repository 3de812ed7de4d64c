"""Inference tensors that are still referenced when a block of inference mode is exited, with their lines."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable
from typing import Any

import torch

from gradprobe.capture.autograd.creation import creation_site
from gradprobe.capture.location.frames import FrameClassifier
from gradprobe.capture.location.holders import find_holder

_TORCH = os.path.dirname(torch.__file__)
_ALWAYS, _MAX_SEARCHES, _MAX_DESCRIBED = 4, 100, 6


class SurvivorSearch:
    """Search for inference tensors at the exits of each block of inference mode: the first ones, then ever more rarely.

    Args:
        write: Takes a row for each tensor.
        is_own: Whether a file belongs to the program.
        note_exit: Called with the frame that has left a block.
    """

    def __init__(
        self,
        write: Callable[[dict[str, Any]], None],
        is_own: Callable[[str], bool],
        note_exit: Callable[[Any], None],
    ) -> None:
        self._write, self._is_own, self._note_exit = write, is_own, note_exit
        self._exits: dict[tuple[str, int], int] = {}
        self._searches = 0
        self._described: set[tuple[str, int, str]] = set()
        self._codes = FrameClassifier()

    def install(self) -> None:
        """Search from now on, for the rest of the process."""
        kind: Any = torch.inference_mode
        leave = kind.__exit__

        def leave_and_search(manager: Any, *error: Any) -> Any:
            result = leave(manager, *error)
            self._note_exit(sys._getframe(1))
            with contextlib.suppress(Exception):
                self._search(sys._getframe(1))
            return result

        leave_and_search.__wrapped__ = leave  # type: ignore[attr-defined]
        kind.__exit__ = leave_and_search

    def _search(self, frame: Any) -> None:
        place = _find_block(frame)
        exits = self._exits[place] = self._exits.get(place, 0) + 1
        is_due = exits <= _ALWAYS or exits & (exits - 1) == 0
        if not is_due or self._searches >= _MAX_SEARCHES or torch.is_inference_mode_enabled():
            return
        self._searches += 1
        count = 0
        for found in gc.get_objects():
            if not issubclass(type(found), torch.Tensor):
                continue
            with torch._C.DisableTorchFunctionSubclass():
                if not found.is_inference():
                    continue
                count += 1
                if count <= _MAX_DESCRIBED:
                    self._describe(found, frame)

    def _describe(self, tensor: torch.Tensor, frame: Any) -> None:
        place = creation_site(tensor)
        file, line = (place.file, place.line) if place is not None else ("", 0)
        holder = find_holder([tensor], self._codes, frame, [])
        key = (file, line, holder.name if holder is not None else "")
        if key in self._described:
            return
        self._described.add(key)
        self._write(
            {
                "survivor": {
                    "file": file,
                    "line": line,
                    "op": place.op if place is not None else "",
                    "holder": holder.name if holder is not None else "",
                    "kind": holder.kind if holder is not None else "",
                    "shape": list(tensor.shape),
                    "bytes": tensor.nbytes,
                }
            }
        )


def _find_block(frame: Any) -> tuple[str, int]:
    """Return the file and line that identify a block, given the frame that left it."""
    function = frame.f_locals.get("func") if frame.f_code.co_filename.startswith(_TORCH) else None
    code = getattr(function, "__code__", None)
    return (frame.f_code.co_filename, frame.f_lineno) if code is None else (code.co_filename, code.co_firstlineno)
