"""Functions that ask for the mode: those whose code reads whether grad or inference mode is enabled, to decide by it."""

from __future__ import annotations

import dis
import inspect
import linecache
import re
from collections.abc import Iterator
from types import CodeType

_QUESTIONS = frozenset({"is_grad_enabled", "is_inference_mode_enabled"})
_OF_TENSORS = frozenset({"requires_grad", "is_inference"})
_DEFINITION = re.compile(r"\s*(?:async\s+)?def\s+(\w+)")
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
    """The functions of one session that ask for the mode, and those that ask by a property or a helper of their file."""

    def __init__(self) -> None:
        self._helpers: dict[str, frozenset[str]] = {}

    def are_asked_in(self, code: CodeType) -> bool:
        """Return whether ``code`` asks for the mode, or uses a function or property of its file that does."""
        if asks_for_mode(code):
            return True
        names = code.co_names if code.co_flags & inspect.CO_OPTIMIZED else ()
        return not self._find_helpers(code.co_filename).isdisjoint(names)

    def _find_helpers(self, file: str) -> frozenset[str]:
        """Return the names of the functions in a file that ask for the mode, by its text: they may run no operator."""
        known = self._helpers.get(file)
        if known is None:
            known = self._helpers[file] = frozenset(_list_helpers(linecache.getlines(file)))
        return known


def _list_helpers(lines: list[str]) -> Iterator[str]:
    name = "__module__"
    for line in lines:
        defined = _DEFINITION.match(line)
        if defined is not None:
            name = defined[1]
        # What everything is called by, such as `forward`, says nothing of a caller.
        elif (
            name != "forward" and not name.startswith("__") and any(f"{question}()" in line for question in _QUESTIONS)
        ):
            yield name
