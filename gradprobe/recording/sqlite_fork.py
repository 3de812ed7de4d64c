"""SQLite and forks: a thread that is inside SQLite as another forks leaves its locks closed in the child, for good."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import threading
from typing import Any

from gradprobe import lifecycle
from gradprobe.errors import GradprobeError

lock = threading.RLock()
"""Held while a recording is written, so that no fork comes in between."""

_FIRST, _LAST, _LAST_OF_OLD = 2, 13, 7
"""The numbers of SQLite's static mutexes, which all connections share; there were fewer before 3.9."""
_was_held = False


def check() -> None:
    """Raises ``GradprobeError`` where this process was forked while another thread was inside SQLite: the next call would
    wait for ever. The program's own threads may have been there."""
    if _was_held:
        raise GradprobeError("another thread was inside SQLite as it was forked, and left that locked")


def _is_held() -> bool:
    """Whether one of SQLite's locks is closed. False where that cannot be told: where Python hides SQLite's symbols.

    To hold the locks oneself over the fork would be a deadlock of its own: a thread may wait for one with Python's lock.
    """
    library = _library()
    if library is None:
        return False
    last = _LAST if sqlite3.sqlite_version_info >= (3, 9) else _LAST_OF_OLD
    for number in range(_FIRST, last + 1):
        mutex = library.sqlite3_mutex_alloc(number)
        if not mutex:
            continue
        if library.sqlite3_mutex_try(mutex):
            return True
        library.sqlite3_mutex_leave(mutex)
    return False


@functools.cache
def _library() -> Any:
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import _sqlite3
        import ctypes

        library = ctypes.PyDLL(getattr(_sqlite3, "__file__", None))
        library.sqlite3_mutex_alloc.argtypes, library.sqlite3_mutex_alloc.restype = [ctypes.c_int], ctypes.c_void_p
        library.sqlite3_mutex_try.argtypes = [ctypes.c_void_p]
        library.sqlite3_mutex_leave.argtypes, library.sqlite3_mutex_leave.restype = [ctypes.c_void_p], None
        return library
    return None


def _before() -> None:
    lock.acquire()
    _library()  # to load it in the child would need locks of the loader


def _in_child() -> None:
    global _was_held
    lock.release()
    # Now, while there is one thread: later a lock may be closed because somebody is at work.
    _was_held = _is_held()


lifecycle.register(lifecycle.Order.SQLITE, before=_before, in_parent=lock.release, in_child=_in_child)
