"""Source sites: the file and lines that the code object and offset of an event refer to."""

from __future__ import annotations

import dis
import functools
import os
import sys
from types import CodeType

import torch

from gradprobe import _version
from gradprobe.capture.location.callers import indirect_files
from gradprobe.recording.contents import Site
from gradprobe.recording.events import DECORATED, GENERATOR, NOWHERE

Offset = int | tuple[int, str]
"""The offset of an instruction in its code, or a pair of that and a name chosen by the user."""

TORCH_DIR = os.path.dirname(torch.__file__) + os.sep
GRADPROBE_DIR = os.path.dirname(_version.__file__) + os.sep
_GENERATED = (f"{os.sep}torchinductor_", "<eval_with_key>", "<torch_package")
_HIDDEN = (TORCH_DIR, f"{GRADPROBE_DIR}pytest_plugin{os.sep}")
"""Folders of code whose blocks are not the program's: the plugin copies and restores tensors around a test."""
_FORMS = {DECORATED: "decorator", GENERATOR: "generator"}


class SiteTable(dict[tuple[int, Offset], int]):
    """Numbers of sites. Keeps a reference to each code object, because freed ids may be reused."""

    def __init__(self, table: dict[int, Site]) -> None:
        super().__init__()
        self._table = table
        self._codes: list[CodeType | None] = []

    def number(self, code: CodeType | None, offset: Offset) -> int:
        """Return the number of a place in the code, a new one at its first use."""
        if code is None and not isinstance(offset, tuple):
            return NOWHERE
        known = self.get((id(code), offset))
        if known is None:
            known = self[id(code), offset] = len(self._table) + 1
            self._codes.append(code)
            self._table[known] = make_site(code, offset, known)
        return known


def make_site(code: CodeType | None, offset: Offset, number: int = NOWHERE) -> Site:
    """Build the site of a place in the code."""
    offset, name = offset if isinstance(offset, tuple) else (offset, None)
    if code is None:
        return Site(number, None, None, None, name, _FORMS.get(offset, "with"), internal=False)
    file = code.co_filename
    if offset in _FORMS:
        line = end_line = code.co_firstlineno
        form = _FORMS[offset]
    else:
        line, end_line = line_span(code, offset)
        form = "indirect" if file in indirect_files or file.startswith(GRADPROBE_DIR) else "with"
    return Site(
        id=number,
        file=file,
        line=line,
        end_line=end_line,
        function=name or getattr(code, "co_qualname", code.co_name),
        form=form,
        internal=file.startswith(_HIDDEN) or any(mark in file for mark in _GENERATED),
    )


@functools.lru_cache(4_096)
def line_span(code: CodeType, offset: int) -> tuple[int, int]:
    """Return the first and last line of the expression that the instruction at ``offset`` belongs to."""
    if sys.version_info >= (3, 11):
        for index, (line, end_line, _, _) in enumerate(code.co_positions()):
            if index == offset // 2 and line is not None:
                return line, end_line or line
    for start, end, line in code.co_lines():
        if start <= offset < end and line is not None:
            return _first_decorator(code, offset) or line, line
    return code.co_firstlineno, code.co_firstlineno


def _first_decorator(code: CodeType, offset: int) -> int | None:
    """Return the line of a function's first decorator if the instruction applies one.

    Python 3.10 places such an instruction at the line of ``def``.
    """
    before = [i for i in dis.get_instructions(code) if i.offset <= offset]
    while before and before[-1].opname == "CALL_FUNCTION" and before[-1].arg == 1:
        before.pop()
    if len(before) < 3 or before[-1].opname != "MAKE_FUNCTION" or before[-1].offset == offset:
        return None
    made = before[-3].argval
    return made.co_firstlineno if isinstance(made, CodeType) else None
