"""``gradprobe.record()``: starts and stops captures, and owns what they gather."""

from __future__ import annotations

import atexit
import contextlib
import os
import platform
import sys
import warnings
from _thread import get_ident
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

from gradprobe import _switch
from gradprobe._files import clear_path
from gradprobe._version import __version__
from gradprobe.capture.autograd.graph import can_read_saved
from gradprobe.capture.capabilities import missing_for_ops, recompiles_under_dispatch_mode
from gradprobe.capture.clock import SYSTEM, Clock
from gradprobe.capture.location.callers import find_caller, live_threads
from gradprobe.capture.modes import profiler_ranges
from gradprobe.capture.ops.native.loader import core
from gradprobe.capture.session import Session, find_node_counter
from gradprobe.errors import GradprobeError
from gradprobe.recording.contents import Contents
from gradprobe.recording.events import RECORDING_BEGINS, RECORDING_ENDS, THREAD, Event
from gradprobe.recording.notes import NoteKind
from gradprobe.recording.sqlite_file import Store, read_file
from gradprobe.recording.writer import AGGREGATE, DEFAULT_LIMIT, STOP, Writer
from gradprobe.result import Recording

LEVELS = ("modes", "graph", "ops")

_sessions: dict[Clock, Session] = {}
_active: set[Recorder] = set()


def get_session(clock: Clock = SYSTEM) -> Session:
    """The session of this process that runs on ``clock``."""
    return _sessions.setdefault(clock, Session(clock))


def check_level(level: str) -> str:
    """``level`` if it is one and what it needs is there, else ``GradprobeError``."""
    if level not in LEVELS:
        raise GradprobeError(f"level={level!r} is not known; choose one of {', '.join(map(repr, LEVELS))}")
    missing = missing_for_ops() if level == "ops" else []
    if missing:
        raise GradprobeError(
            f"level 'ops' needs {', '.join(missing)}, which torch {torch.__version__} lacks; use level 'graph' or 'modes'"
        )
    if level == "ops":
        core()  # of the environment's choice, or an error
    return level


def record(
    path: str | os.PathLike[str] | None = None,
    *,
    level: str = "graph",
    include_torch: bool = False,
    on_full: str = AGGREGATE,
    limit: int = DEFAULT_LIMIT,
    force: bool = False,
    profiler_ranges: bool = False,
) -> Recorder:
    """Records every transition of the gradient and inference modes while open, in all threads, in third-party code too.

    Use it as a ``with`` block, or call ``start()`` and ``stop()``; both give a ``Recording``. With ``path`` the recording
    is on disk as it grows; an existing file is refused unless ``force``.

    ``level``: ``"modes"`` records transitions and time, ``"graph"`` also counts autograd nodes, ``"ops"`` also tells of
    each operator: nodes, saved bytes, version counters, views, inference tensors. ``include_torch`` shows the blocks that
    PyTorch's own code enters, which are recorded in any case. Past ``limit`` events (two per block) the recording adds
    finished blocks up per source line instead of keeping each (``on_full="aggregate"``), or takes no more
    (``on_full="stop"``); its report says so. With ``profiler_ranges`` blocks also appear, by manager and line, as named
    ranges in what torch.profiler records meanwhile.

    Raises ``GradprobeError`` for a level or a policy that does not exist and for a path that cannot be written.
    """
    return Recorder(
        path,
        level=level,
        include_torch=include_torch,
        on_full=on_full,
        limit=limit,
        force=force,
        profiler_ranges=profiler_ranges,
        enabled=_switch.is_enabled(),
    )


class Recorder:
    """What ``record()`` gives; see there."""

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        level: str = "graph",
        include_torch: bool = False,
        on_full: str = AGGREGATE,
        limit: int = DEFAULT_LIMIT,
        force: bool = False,
        profiler_ranges: bool = False,
        enabled: bool = True,
        clock: Clock = SYSTEM,
        parent: int | None = None,
    ) -> None:
        """``parent`` is the process that this one is recorded for the sake of."""
        self.path = Path(path) if path is not None else None
        self._level = check_level(level)
        if on_full not in (AGGREGATE, STOP):
            raise GradprobeError(f"on_full={on_full!r} is not known; choose {AGGREGATE!r} or {STOP!r}")
        if limit < 0:
            raise GradprobeError(f"limit={limit} is below zero; give the number of events to keep one by one")
        self._include_torch = include_torch
        self._on_full = on_full
        self._limit = limit
        self._force = force
        self._profiler_ranges = profiler_ranges
        self._enabled = enabled
        self._clock = clock
        self._parent = parent
        self._writer: Writer | None = None
        self._recording: Recording | None = None
        self._running = False
        self._process = os.getpid()

    def __enter__(self) -> Recording:
        return self.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc_value is not None:
            self.annotate_exception(exc_value)
        self.stop()

    def annotate_exception(self, error: BaseException) -> None:
        """Adds a note to an exception that inference tensors cause: where the tensor was born, and under which line."""
        if self._running and self._enabled:
            get_session(self._clock).annotate_exception(error)

    def start(self) -> Recording:
        """Begins to record. The ``Recording`` that it gives may be looked at while it grows."""
        if self._running:
            raise GradprobeError("this recorder is running already; call stop() first, or make another")
        path = self.path if self._enabled else None
        if path is not None:
            clear_path(path, force=self._force)
        session = get_session(self._clock)
        writer = Writer(
            Store(path),
            session.tables,
            level=self._level,
            limit=self._limit,
            on_full=self._on_full,
            names_ranges=self._profiler_ranges,
        )
        writer.meta(
            environment=environment(self._level, self._parent),
            include_torch=self._include_torch,
            limit=self._limit,
            began_wall_ns=self._clock.wall(),
            began_ns=self._clock.now(),
            reads_saved=can_read_saved(),
        )
        for text in _shortcomings(self._level, self._enabled):
            writer.note(NoteKind.LEVEL, text)
        if self._profiler_ranges and not profiler_ranges.can_name_ranges():
            writer.note(NoteKind.LEVEL, f"torch {torch.__version__} has no ranges to name in its profiler's trace")
        self._writer, self._running, self._process = writer, True, os.getpid()
        with session.lock:
            # Under the lock: the session may forget what the writer has counted so far, until it serves the writer.
            writer.flush()
            if self._enabled:
                session.attach(writer)
                session.emit(_moment(THREAD | RECORDING_BEGINS, session, None))
                _active.add(self)
        self._recording = recording = Recording(
            lambda: [self._contents(writer, path)],
            include_torch=self._include_torch,
            is_final=lambda: not self._running or self._process != os.getpid(),
        )
        return recording

    def stop(self) -> Recording:
        """Ends the recording and gives it. In a process that was forked off meanwhile nothing is recorded or written."""
        if not self._running or self._writer is None or self._recording is None:
            raise GradprobeError("this recorder is not running; call start() first, or use it as a with block")
        self._running = False
        if self._process != os.getpid():
            return self._recording
        session, writer = get_session(self._clock), self._writer
        frame = sys._getframe(1)
        with session.lock:
            if self._enabled:
                session.emit(_moment(THREAD | RECORDING_ENDS, session, frame))
                _active.discard(self)
                session.detach(writer)
                for ident, name in live_threads().items():
                    if not session.has_seen_thread(ident) and not name.startswith("thread "):
                        writer.note(NoteKind.UNSEEN_THREAD, name)
            writer.meta(ended_ns=self._clock.now(), folded=writer.folded)
        writer.finish()
        if writer.store.path is not None:
            writer.store.close()
        if self.failure is not None:
            # Where warnings are errors, this one must still not stop the program.
            with contextlib.suppress(RuntimeWarning):
                text = f"{self.path} is incomplete: {self.failure}; make room there, or record to another place"
                warnings.warn(text, RuntimeWarning, stacklevel=2)
        return self._recording

    def note(self, kind: str, text: str) -> None:
        """Adds to what a reader of the recording will know, while it runs."""
        with get_session(self._clock).lock:
            if self._running and self._writer is not None and self._process == os.getpid():
                self._writer.note(kind, text)

    @property
    def recording(self) -> Recording | None:
        """What was recorded, from the start on; None before."""
        return self._recording

    @property
    def failure(self) -> str | None:
        """Why the file could not be written to its end, and how much is missing; None if it could."""
        return None if self._writer is None else _failure(self._writer)

    def _contents(self, writer: Writer, path: Path | None) -> Contents:
        runs_here = self._running and self._process == os.getpid()
        if path is not None and not self._running:
            contents = read_file(path)
        else:
            session = get_session(self._clock)
            with session.lock:
                if runs_here:
                    session.drain()
                contents = writer.store.read()
        # Why it has no end, which a file that cannot be written does not tell.
        reason = _failure(writer) or ("it still runs" if runs_here else None)
        return contents if reason is None else replace(contents, notes=[*contents.notes, (NoteKind.CUT_OFF, reason, 1)])


def _failure(writer: Writer) -> str | None:
    return None if writer.failure is None else f"{writer.failure}; {writer.lost} events after that are missing"


def environment(level: str, parent: int | None = None) -> dict[str, Any]:
    """Where a recording was made: versions, machine and process. No environment variables, no arguments."""
    cuda: Any = torch.cuda
    accelerator = cuda.get_device_name(0) if cuda.is_initialized() else None
    watched_by = {} if level != "ops" else {"core": "native" if core() is not None else "python"}
    return {
        "gradprobe": __version__,
        "level": level,
        **watched_by,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": _machine(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "accelerator": accelerator,
        "process": os.getpid(),
        "parent": parent,
        "rank": rank(),
        "program": os.path.basename(sys.argv[0]) if sys.argv else "",
    }


def _machine() -> str:
    """System and machine. ``platform.platform`` starts a process to find out about the processor, which a program may
    count, under a lock that a fork leaves closed."""
    known = platform.uname()
    return f"{known.system}-{known.release}-{known.machine}"


def rank() -> int | None:
    """This process's number among those that torchrun or the like started together."""
    text = os.environ.get("RANK", "")
    return int(text) if text.isdecimal() else None


def _shortcomings(level: str, enabled: bool) -> list[str]:
    found = []
    if not enabled:
        found.append("gradprobe is switched off (GRADPROBE=0 or gradprobe.disable()): nothing was recorded")
    if level != "modes" and find_node_counter() is None:
        found.append(f"torch {torch.__version__} does not tell its count of autograd nodes")
    if level == "ops" and not can_read_saved():
        found.append(
            f"torch {torch.__version__} does not show what its nodes saved: the bytes saved for backward are not known, "
            "nor how many tensors went to hooks instead"
        )
    if level == "ops" and recompiles_under_dispatch_mode():
        found.append(
            f"torch {torch.__version__} compiles anew under any dispatch mode: record what torch.compile made at level "
            "graph"
        )
    return found


def _moment(op: int, session: Session, frame: FrameType | None) -> Event:
    """The event that tells this thread's modes at the beginning or the end of a recording."""
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    code, offset = find_caller(frame)
    return (op, session.clock.now(), get_ident(), code, offset, grad, inference, grad, inference, 0, None)


def _after_fork() -> None:
    for session in _sessions.values():
        session.abandon()
    _active.clear()


def _before_fork() -> None:
    # The writing thread must not be in the middle of a transaction that the child would carry along.
    for session in _sessions.values():
        session.lock.acquire()


def _after_fork_in_parent() -> None:
    for session in _sessions.values():
        session.lock.release()


def _stop_all() -> None:
    for recorder in list(_active):
        with contextlib.suppress(Exception):
            recorder.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork)
atexit.register(_stop_all)
