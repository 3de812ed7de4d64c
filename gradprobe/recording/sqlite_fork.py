"""SQLite across forks: a thread inside SQLite while another one forks leaves locks held in the child."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import threading
from typing import Any

from gradprobe import lifecycle
from gradprobe.errors import GradprobeError

lock = threading.RLock()
"""Lock held while a recording is written, so that no fork happens meanwhile."""

_FIRST, _LAST, _LAST_OF_OLD = 2, 13, 7
"""Numbers of SQLite's static mutexes, which all connections share; there were fewer before 3.9."""
_was_held = False


def check_usable() -> None:
    """Raise ``GradprobeError`` if this process was forked while another thread was inside SQLite.

    The next call into SQLite would wait forever. It may have been one of the program's own threads.
    """
    if _was_held:
        raise GradprobeError(
            "cannot record in this process: it was forked while another thread held SQLite's lock; "
            "start it with 'spawn', or fork before threads start"
        )


def _is_held() -> bool:
    """Return whether one of SQLite's locks is held; False if Python hides SQLite's symbols.

    To acquire the locks before the fork would be a deadlock of its own: a thread may wait for one while it holds the GIL.
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
    _library()  # loading it in the child would need locks of the dynamic loader


def _in_child() -> None:
    global _was_held
    lock.release()
    # Now, while there is one thread: later a lock may be held by a thread that is using SQLite.
    _was_held = _is_held()


lifecycle.register(lifecycle.Order.SQLITE, before=_before, in_parent=lock.release, in_child=_in_child)
