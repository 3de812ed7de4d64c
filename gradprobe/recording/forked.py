"""Whether SQLite can be used in a process that was forked while other threads of its parent used it."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

_FIRST, _LAST, _LAST_OF_OLD = 2, 13, 7
"""The numbers of SQLite's static mutexes, which all connections share; there were fewer before 3.9."""


def is_sqlite_held() -> bool:
    """Whether a thread that is not in this process any more holds one of SQLite's locks, so that the next call waits for
    ever. False where that cannot be told: where the symbols of SQLite are hidden within Python.

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
