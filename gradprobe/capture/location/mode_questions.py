"""Functions that ask for the mode: those whose code reads whether grad or inference mode is enabled, to decide by it."""

from __future__ import annotations

import dis
import inspect
from types import CodeType

_QUESTIONS = frozenset({"is_grad_enabled", "is_inference_mode_enabled"})
_OF_TENSORS = frozenset({"requires_grad", "is_inference"})
_DECIDING = ("POP_JUMP", "JUMP_IF", "UNARY_NOT", "CALL", "PRECALL", "TO_BOOL", "NOP", "CACHE")


def asks_for_mode(code: CodeType) -> bool:
    """Return whether a function decides something by the mode, or by whether a tensor requires grad."""
    if not code.co_flags & inspect.CO_OPTIMIZED:
        return False  # a module or class body runs once
    names = set(code.co_names)
    if names & _QUESTIONS:
        return True
    return bool(names & _OF_TENSORS) and _decides_by_tensor(code)


def _decides_by_tensor(code: CodeType) -> bool:
    was_read = False
    for instruction in dis.get_instructions(code):
        if was_read and instruction.opname.startswith(("POP_JUMP", "JUMP_IF")):
            return True
        is_read = instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and instruction.argval in _OF_TENSORS
        was_read = is_read or (was_read and instruction.opname.startswith(_DECIDING))
    return False


class ModeQuestions:
    """The functions of one session that ask for the mode, and the methods that may call those of their class."""

    def __init__(self) -> None:
        self._owners: set[tuple[str, str]] = set()

    def are_asked_in(self, code: CodeType) -> bool:
        """Return whether ``code`` asks for the mode, or is the ``forward`` of a class with a method that asks."""
        owner, _, name = getattr(code, "co_qualname", code.co_name).rpartition(".")
        if asks_for_mode(code):
            if owner and not owner.endswith("<locals>"):
                self._owners.add((code.co_filename, owner))
            return True
        return name == "forward" and (code.co_filename, owner) in self._owners
