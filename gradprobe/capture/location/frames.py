"""What the frames of a call are: the program's, a module's call, an optimizer's, or none of interest."""

from __future__ import annotations

from types import CodeType

from gradprobe.capture.location.module_paths import MODULE_CALL_CODE
from gradprobe.capture.location.sites import GRADPROBE_DIR, TORCH_DIR

SKIPPED, USER, MODULE_CALL, OPTIMIZER = range(4)
_IN_OPTIMIZER = f"{TORCH_DIR}optim"


class FrameClassifier:
    """What the frames of a call are to us; holds on to their code, whose identity would be reused otherwise."""

    def __init__(self) -> None:
        self.kinds: dict[int, int] = {}
        self.held: dict[int, CodeType] = {}

    def kind(self, code: CodeType) -> int:
        known = self.kinds.get(id(code))
        return self.learn(code) if known is None else known

    def learn(self, code: CodeType) -> int:
        file = code.co_filename
        if code is MODULE_CALL_CODE:
            kind = MODULE_CALL
        elif file.startswith(_IN_OPTIMIZER):
            kind = OPTIMIZER
        else:
            kind = SKIPPED if file.startswith((TORCH_DIR, GRADPROBE_DIR)) else USER
        self.held[id(code)] = code
        self.kinds[id(code)] = kind
        return kind
