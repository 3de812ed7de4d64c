"""Compilations by ``torch.compile``: of which function, called from which line, under which modes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import torch

from gradprobe.capture.sightings import Sightings
from gradprobe.recording.sightings import Spot

_FRAME_FILE = "convert_frame.py"


class Compilations:
    """Listens to Dynamo from when the program has imported it: importing it takes seconds, and is the program's to do."""

    def __init__(self, sightings: Sightings, fault: Callable[[Exception], None]) -> None:
        self._sightings, self._fault = sightings, fault
        self._handler: Any = None

    def listen(self) -> None:
        """Begins to listen, if there is something to listen to."""
        if self._handler is None and "torch._dynamo.callback" in sys.modules:
            handler = getattr(sys.modules["torch._dynamo.callback"], "callback_handler", None)
            if handler is not None and hasattr(handler, "start_callbacks"):
                handler.start_callbacks.append(self._begins)
                self._handler = handler

    def stop(self) -> None:
        """Leaves Dynamo as it was."""
        if self._handler is not None and self._begins in self._handler.start_callbacks:
            self._handler.start_callbacks.remove(self._begins)
        self._handler = None

    def _begins(self, *_: Any) -> None:
        try:
            frame: FrameType | None = sys._getframe(1)
            compiled = None
            takes_inference = False
            while frame is not None and compiled is None:
                compiled = _compiled(frame)
                if compiled is not None:
                    given = frame.f_locals.get("locals", {})
                    takes_inference = any(isinstance(v, torch.Tensor) and v.is_inference() for v in given.values())
                frame = frame.f_back
            if compiled is None:
                return
            where = Spot("compiled function", compiled.co_filename, compiled.co_firstlineno, compiled.co_name)
            called = self._sightings.spot_of("compiled for this call", frame)
            mode = "inference_mode" if torch.is_inference_mode_enabled() else "grad" if _grad() else "no_grad"
            self._sightings.add("GP301", [where, called], mode=mode, inference_tensor=takes_inference)
        except Exception as error:
            self._fault(error)


def _compiled(frame: FrameType) -> CodeType | None:
    """The code that Dynamo is compiling in ``frame``, if it is the one where it does so."""
    if frame.f_code.co_filename.endswith(_FRAME_FILE) and frame.f_code.co_name == "_compile":
        code = frame.f_locals.get("code")
        return code if isinstance(code, CodeType) else None
    return None


def _grad() -> bool:
    return torch.is_grad_enabled()
