"""What the frames of a call are: the program's, a module's call, an optimizer's, or none of interest."""

from __future__ import annotations

from types import CodeType

from gradprobe.capture.location.module_paths import CALL
from gradprobe.capture.location.sites import GRADPROBE, TORCH

SKIPPED, USERS, MODULE, OPTIMIZER = range(4)
_IN_OPTIMIZER = f"{TORCH}optim"


class Codes:
    """What the frames of a call are to us; holds on to their code, whose identity would be reused otherwise."""

    def __init__(self) -> None:
        self.kinds: dict[int, int] = {}
        self.held: dict[int, CodeType] = {}

    def kind(self, code: CodeType) -> int:
        known = self.kinds.get(id(code))
        return self.learn(code) if known is None else known

    def learn(self, code: CodeType) -> int:
        file = code.co_filename
        if code is CALL:
            kind = MODULE
        elif file.startswith(_IN_OPTIMIZER):
            kind = OPTIMIZER
        else:
            kind = SKIPPED if file.startswith((TORCH, GRADPROBE)) else USERS
        self.held[id(code)] = code
        self.kinds[id(code)] = kind
        return kind
