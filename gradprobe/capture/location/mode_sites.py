"""Bytecode at a mode change, which shows whether the change can last longer than the function that made it.

A ``with`` statement in a plain function exits its block before the function returns. Most programs have no other blocks, so
nothing needs to be known of their changes one by one.
"""

from __future__ import annotations

import contextlib
import dis
import inspect
import unittest
from types import CodeType, FrameType
from typing import Any

from gradprobe.capture.location.frames import read_local
from gradprobe.capture.location.identity_cache import cache_by_identity

SUSPENDABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE
"""Flags of code whose frames can be left with a block open and be resumed later."""
_SETTER = "set_grad_enabled"
_ENTERING_NAMES = frozenset({"__enter__", "__exit__", "enter_context", _SETTER, "_set_grad_enabled"})
_ENTERING_METHODS = ("__enter__", "__aenter__")
_FIXTURES = ("/_pytest/", "/pluggy/", unittest.__path__[0])
_WITH_OPS = ("BEFORE_WITH", "BEFORE_ASYNC_WITH", "SETUP_WITH", "SETUP_ASYNC_WITH", "LOAD_SPECIAL")
_NOT_RUN = ("CACHE", "NOP", "EXTENDED_ARG")
_ON_STACK = ("COPY", "SWAP")
"""Instructions between the expression of a ``with`` statement and what enters it, in Python 3.14."""


def can_outlive_function(code: CodeType) -> bool:
    """Return whether a mode set by ``code`` can be active after its function returned or was suspended."""
    names = _ENTERING_NAMES.intersection(code.co_names)
    return bool(code.co_flags & SUSPENDABLE) or bool(names and not (names == {_SETTER} and _only_enters(code)))


@cache_by_identity
def _only_enters(code: CodeType) -> bool:
    """Return whether a ``with`` statement enters what each ``set_grad_enabled`` in the code makes.

    The call that makes it begins where the name is read. Without positions, as before Python 3.11, none is known to be one.
    """
    heads: set[tuple[Any, ...] | None] = set()
    reads: list[tuple[Any, ...] | None] = []
    latest: tuple[Any, ...] | None = None
    for each in dis.get_instructions(code):
        place = getattr(each, "positions", None)
        at = None if place is None else (place.lineno, place.col_offset)
        if each.opname in _WITH_OPS:
            heads.add(latest)
        elif each.opname not in (*_NOT_RUN, *_ON_STACK):
            latest = at
        if each.opname.startswith("LOAD") and each.argval == _SETTER:
            reads.append(at)
    return all(at is not None and None not in at and at in heads for at in reads)


def is_with_statement(code: CodeType, offset: int) -> bool:
    """Return whether the instruction at ``offset`` enters a ``with`` block, or makes what the next one enters."""
    return offset in _find_with_offsets(code)


@cache_by_identity
def _find_with_offsets(code: CodeType) -> frozenset[int]:
    """Return the offsets of the instructions that enter a ``with`` block, and of those just before them.

    Python 3.14 looks up ``__enter__`` and calls it in instructions of their own.
    """
    found = set()
    names = [each for each in dis.get_instructions(code) if each.opname not in _NOT_RUN]
    for index, each in enumerate(names):
        around = names[max(index - 2, 0) : index + 2]
        if any(
            near.opname in _WITH_OPS and (near.opname == "LOAD_SPECIAL" or near.offset >= each.offset)
            for near in around
        ):
            found.add(each.offset)
    return frozenset(found)


def find_owner(frame: FrameType) -> FrameType | None:
    """Return the frame of the function that is accountable for a change made in ``frame``; None for a test fixture.

    For the ``__enter__`` of a class, or the function behind ``contextlib.contextmanager``, that is the function with the
    ``with`` statement: those are meant to end with the mode changed.
    """
    owner: FrameType | None = frame
    while owner is not None:
        caller = owner.f_back
        if caller is not None and caller.f_code.co_filename == contextlib.__file__:
            while caller is not None and caller.f_code.co_filename == contextlib.__file__:
                caller = caller.f_back
        elif caller is not None and any(part in caller.f_code.co_filename for part in _FIXTURES):
            return None
        elif owner.f_code.co_name not in _ENTERING_METHODS and not _is_constructor_of_manager(owner):
            return owner
        owner = caller
    return None


def _is_constructor_of_manager(frame: FrameType) -> bool:
    return frame.f_code.co_name == "__init__" and hasattr(type(_read_self(frame)), "__exit__")


def _read_self(frame: FrameType) -> Any:
    code = frame.f_code
    return read_local(frame, code.co_varnames[0]) if code.co_argcount else None
