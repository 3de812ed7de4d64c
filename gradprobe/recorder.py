"""``gradprobe.record()`` and ``Recorder``, which start and stop recordings in this process."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from _thread import get_ident
from pathlib import Path
from types import FrameType, TracebackType

import torch

from gradprobe import _switch, lifecycle
from gradprobe._files import clear_path
from gradprobe._levels import LEVELS as LEVELS
from gradprobe.capture.autograd.graph import can_read_saved
from gradprobe.capture.autograd.node_counter import find_node_counter
from gradprobe.capture.clock import SYSTEM, Clock
from gradprobe.capture.location.callers import find_caller
from gradprobe.capture.location.threads import live_threads
from gradprobe.capture.modes import profiler_ranges
from gradprobe.capture.ops.native.loader import load_core
from gradprobe.capture.session import Session
from gradprobe.environment import environment
from gradprobe.errors import GradprobeError, InvalidArgument
from gradprobe.live_contents import LiveRecording, describe_failure
from gradprobe.recording.events import RECORDING_BEGINS, RECORDING_ENDS, THREAD, Event
from gradprobe.recording.notes import NoteKind
from gradprobe.recording.sqlite_file import Store
from gradprobe.recording.writer import AGGREGATE, DEFAULT_LIMIT, STOP, Writer
from gradprobe.result import Recording

_sessions: dict[Clock, Session] = {}
_active: set[Recorder] = set()


def get_session(clock: Clock = SYSTEM) -> Session:
    """Return the session of this process that runs on ``clock``."""
    session = _sessions.get(clock)
    return _sessions.setdefault(clock, Session(clock)) if session is None else session


def check_level(level: str) -> str:
    """Return ``level``; raise ``GradprobeError`` if it does not exist or this PyTorch cannot record it."""
    if level not in LEVELS:
        raise InvalidArgument(f"level must be 'modes', 'graph' or 'ops', got {level!r}")
    if level == "ops":
        load_core()  # builds the observer at its first use, or raises the reason why there is none
    return level


def record(
    path: str | os.PathLike[str] | None = None,
    *,
    level: str = "graph",
    include_torch: bool = False,
    on_full: str = AGGREGATE,
    max_events: int = DEFAULT_LIMIT,
    overwrite: bool = False,
    profiler_ranges: bool = False,
    composite_parts: bool = False,
    limit: int | None = None,
    force: bool = False,
) -> Recorder:
    """Record every change of grad mode and inference mode, in all threads and in third-party code.

    Use the returned ``Recorder`` as a context manager, or call its ``start()`` and ``stop()``; both return a
    ``Recording``, which may be read while it grows. Recordings may be nested and may overlap. While none is open, PyTorch
    runs unmodified.

    Args:
        path (str or os.PathLike, optional): file that the recording is written to as it grows; an existing one is refused
            unless ``overwrite`` is set. Default: None, which keeps the recording in memory.
        level (str): amount of detail. ``"modes"`` records transitions and time, ``"graph"`` counts autograd nodes too,
            ``"ops"`` adds each operator: nodes, saved bytes, version counters, tracked views, inference tensors. Default:
            ``"graph"``.
        include_torch (bool): show the blocks that PyTorch's own code enters, which are recorded in any case. Default:
            False.
        on_full (str): policy once ``max_events`` are recorded. ``"aggregate"`` sums finished blocks per source line
            instead of keeping each, ``"stop"`` records no more. The report says so. Default: ``"aggregate"``.
        max_events (int): number of events that are kept one by one, two per block. Default: 2,000,000.
        overwrite (bool): replace an existing file at ``path``. Default: False.
        profiler_ranges (bool): show blocks, named by context manager and line, as ranges in what torch.profiler records
            meanwhile. Default: False.
        composite_parts (bool): record the parts of composite operators too, such as ``aten.addmm`` of ``aten.linear``, for
            level ``"ops"``. What the parts do counts with them, and the composite operator has a row with its calls.
            Default: False.
        limit (int, optional): alias of ``max_events``.
        force (bool): alias of ``overwrite``.

    Returns:
        Recorder: a context manager that is not started yet; its block gets the ``Recording``.

    Raises:
        InvalidArgument: ``level``, ``on_full``, ``max_events`` or ``composite_parts`` has a value that is not allowed.
        GradprobeError: this PyTorch cannot record at ``level``. On entering: ``path`` exists or cannot be written.

    Example::

        with gradprobe.record("run.gradprobe", level="ops") as recording:
            evaluate(model)
        print(recording)

        recorder = gradprobe.record()  # the same without a block
        recorder.start()
        evaluate(model)
        recording = recorder.stop()
    """
    return Recorder(
        path,
        level=level,
        include_torch=include_torch,
        on_full=on_full,
        max_events=max_events,
        overwrite=overwrite,
        profiler_ranges=profiler_ranges,
        composite_parts=composite_parts,
        limit=limit,
        force=force,
        enabled=_switch.is_enabled(),
    )


class Recorder:
    """Context manager that ``record()`` returns: it starts and stops one recording.

    A recorder controls the recording, and the ``Recording`` holds the result: ``start()`` and the ``with`` statement
    return the ``Recording``, and ``stop()`` returns it again. A recorder can be started again once it is stopped, which
    begins a new ``Recording``. Construct it through ``record()``, whose arguments it takes.

    Attributes:
        path (pathlib.Path or None): file that the recording is written to; None if it is kept in memory.
        recording (Recording or None): the recording from ``start()`` on; None before.

    Example::

        recorder: gradprobe.Recorder = gradprobe.record(level="modes")
        with recorder as recording:
            evaluate(model)
        assert recorder.recording is recording
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        level: str = "graph",
        include_torch: bool = False,
        on_full: str = AGGREGATE,
        max_events: int = DEFAULT_LIMIT,
        overwrite: bool = False,
        profiler_ranges: bool = False,
        composite_parts: bool = False,
        limit: int | None = None,
        force: bool = False,
        enabled: bool = True,
        clock: Clock = SYSTEM,
        parent: int | None = None,
    ) -> None:
        """Check the arguments: those of ``record``, and ``parent``, the process that started this one."""
        self.path = Path(path) if path is not None else None
        self._level = check_level(level)
        if on_full not in (AGGREGATE, STOP):
            raise InvalidArgument(f"on_full must be {AGGREGATE!r} or {STOP!r}, got {on_full!r}")
        self._max_events = max_events if limit is None else limit
        if self._max_events < 0:
            raise InvalidArgument(f"max_events must be 0 or more, got {self._max_events}")
        if composite_parts and level != "ops":
            raise InvalidArgument(f"composite_parts must be False below level 'ops', got level {level!r}")
        self._composite_parts = composite_parts
        self._include_torch = include_torch
        self._on_full = on_full
        self._overwrite = overwrite or force
        self._profiler_ranges = profiler_ranges
        self._enabled = enabled
        self._clock = clock
        self._parent = parent
        self._writer: Writer | None = None
        self._recording: Recording | None = None
        self._running = False
        self._began_ns = 0
        self._process = os.getpid()
        self._outlives_exit_handlers = False
        """True if whoever started it also stops it, after the program's exit handlers."""

    def __enter__(self) -> Recording:
        return self.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc_value is not None:
            self._annotate_exception(exc_value)
        self.stop()

    def start(self) -> Recording:
        """Start recording.

        Returns:
            Recording: the recording, which may be read while it grows.

        Raises:
            GradprobeError: the recorder is running already, or its file exists or cannot be written.

        Example::

            recording = recorder.start()
        """
        if self._running:
            raise GradprobeError(
                "cannot start this recorder: it is running already; call stop() first, or make another"
            )
        path = self.path if self._enabled else None
        if path is not None:
            clear_path(path, force=self._overwrite)
        session = get_session(self._clock)
        writer = Writer(
            Store(path),
            session.tables,
            level=self._level,
            limit=self._max_events,
            on_full=self._on_full,
            names_ranges=self._profiler_ranges,
            counts_parts=self._composite_parts,
        )
        self._began_ns = self._clock.now()
        writer.meta(
            environment=environment(self._level, self._parent),
            include_torch=self._include_torch,
            limit=self._max_events,
            began_wall_ns=self._clock.wall(),
            began_ns=self._began_ns,
            reads_saved=can_read_saved(),
        )
        for text in _shortcomings(self._level, self._enabled):
            writer.note(NoteKind.LEVEL, text)
        if self._profiler_ranges and not profiler_ranges.can_name_ranges():
            writer.note(
                NoteKind.LEVEL, f"torch {torch.__version__} cannot show named ranges in the trace of torch.profiler"
            )
        if self._composite_parts:
            writer.note(
                NoteKind.LEVEL,
                "parts of composite operators are counted instead of the operators that they make up, which have rows with "
                "their calls alone; modes differ in what they run as parts",
            )
        self._writer, self._running, self._process = writer, True, os.getpid()
        with session.lock:
            # Under the lock: the session may forget what the writer has counted so far, until it serves the writer.
            writer.flush()
            if self._enabled:
                session.attach(writer)
                session.emit(_mode_event(THREAD | RECORDING_BEGINS, session, None))
                _active.add(self)
        source = LiveRecording(session, writer, path, lambda: self._running)
        self._recording = recording = Recording(source, include_torch=self._include_torch)
        return recording

    def stop(self) -> Recording:
        """Stop recording. In a process that was forked off meanwhile, nothing is recorded or written.

        Returns:
            Recording: the recording that ``start()`` returned, now complete.

        Raises:
            GradprobeError: the recorder is not running.

        .. note::
            A file that could not be written to its end causes a ``RuntimeWarning`` that says why and how much is missing.

        Example::

            recording = recorder.stop()
        """
        if not self._running or self._writer is None or self._recording is None:
            raise GradprobeError(
                "cannot stop this recorder: it is not running; call start() first, or use it as a context manager"
            )
        self._running = False
        if self._process != os.getpid():
            return self._recording
        session, writer = get_session(self._clock), self._writer
        frame = sys._getframe(1)
        with session.lock:
            if self._enabled:
                session.emit(_mode_event(THREAD | RECORDING_ENDS, session, frame))
                _active.discard(self)
                session.detach(writer)
                for ident, name in live_threads().items():
                    if not session.has_seen_thread(ident) and not name.startswith("thread "):
                        writer.note(NoteKind.UNSEEN_THREAD, name)
            writer.meta(ended_ns=self._clock.now(), folded=writer.folded)
        writer.note_sources()  # reads files, which must not delay threads that wait for the lock
        writer.finish()
        if writer.store.path is not None:
            writer.store.close()
        if self._failure is not None:
            # Where warnings are errors, this one must still not stop the program.
            with contextlib.suppress(RuntimeWarning):
                text = f"{self.path} is incomplete: {self._failure}; free some space there, or record to another place"
                warnings.warn(text, RuntimeWarning, stacklevel=2)
        return self._recording

    @property
    def recording(self) -> Recording | None:
        """Recording that ``start()`` began.

        Returns:
            Recording or None: the recording, running or complete; None before ``start()``.

        Example::

            recorder.recording.summary()
        """
        return self._recording

    def _annotate_exception(self, error: BaseException) -> None:
        """Add a note with the creation site to an exception that an inference tensor caused."""
        if self._running and self._enabled:
            get_session(self._clock).annotate_exception(error)

    def _add_note(self, kind: str, text: str) -> None:
        """Store a note in the recording while it runs."""
        with get_session(self._clock).lock:
            if self._running and self._writer is not None and self._process == os.getpid():
                self._writer.note(kind, text)

    @property
    def _failure(self) -> str | None:
        """Reason why the file could not be written to its end, and how much is missing; None if it could."""
        return None if self._writer is None else describe_failure(self._writer)


def find_open_recording(level: str) -> Recording | None:
    """Return the recording at ``level`` that was opened first, None if none is open in this process."""
    is_open = [r for r in list(_active) if r._running and r._level == level and r._process == os.getpid()]
    return min(is_open, key=lambda recorder: recorder._began_ns).recording if is_open else None


def _shortcomings(level: str, enabled: bool) -> list[str]:
    """Return what this recording cannot contain, in sentences for its report."""
    found = []
    if not enabled:
        found.append("gradprobe is disabled (GRADPROBE=0 or gradprobe.disable()): nothing was recorded")
    if level != "modes" and find_node_counter() is None:
        found.append(f"torch {torch.__version__} does not expose its count of autograd nodes")
    if level == "ops" and not can_read_saved():
        found.append(
            f"torch {torch.__version__} does not expose what its autograd nodes saved: the bytes saved for backward are "
            "unknown, and so is the number of tensors that went to hooks instead"
        )
    return found


def _mode_event(op: int, session: Session, frame: FrameType | None) -> Event:
    """Return the event that states this thread's modes at the beginning or the end of a recording."""
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    code, offset = find_caller(frame)
    return (op, session.clock.now(), get_ident(), code, offset, grad, inference, grad, inference, 0, None)


def _after_fork_in_child() -> None:
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
        if not recorder._outlives_exit_handlers:
            with contextlib.suppress(Exception):
                recorder.stop()


lifecycle.register(
    lifecycle.Order.SESSIONS,
    before=_before_fork,
    in_parent=_after_fork_in_parent,
    in_child=_after_fork_in_child,
    at_exit=_stop_all,
)
