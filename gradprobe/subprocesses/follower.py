"""Recording of the current process as a child, and of the processes that it starts in turn."""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing.process
import multiprocessing.util
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from types import FrameType
from typing import Any

import torch

from gradprobe import lifecycle
from gradprobe.capture.detectors.detection_log import locate_instruction
from gradprobe.capture.location.frames import USER, FrameClassifier
from gradprobe.capture.patching.patches import Patch, Patches
from gradprobe.errors import GradprobeError
from gradprobe.recorder import Recorder
from gradprobe.recording import sqlite_fork
from gradprobe.recording.notes import NoteKind, StartedProcess
from gradprobe.subprocesses.follow_request import FollowRequest

_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep
_INSTALLED = f"{os.sep}site-packages{os.sep}"
_follower: Follower | None = None


class Follower:
    """Hooks that make child processes record and note the line and the modes under which each started."""

    def __init__(self, recorder: Recorder, request: FollowRequest) -> None:
        self._recorder, self._request = recorder, request
        self._patches = Patches()
        self._codes = FrameClassifier()
        self._before: dict[str, str | None] = {}

    def start(self) -> None:
        """Follow the processes started from now on."""
        global _follower
        _follower = self
        own_request = replace(self._request, parent=os.getpid()).variables(os.environ)
        self._before = {name: os.environ.get(name) for name in own_request}
        os.environ.update(own_request)
        self._patches.apply(
            [*self._patch(multiprocessing.process.BaseProcess, "start"), *self._patch(subprocess.Popen)]
        )
        # A child forked by multiprocessing calls this after it has dropped its parent's finalizers.
        multiprocessing.util.register_after_fork(self, Follower.register_exit)

    def stop(self) -> None:
        """Restore the environment and the patched methods."""
        global _follower
        _follower = None
        self._patches.restore()
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def record_child(self) -> None:
        """Start a separate recording in a forked process. Raise ``GradprobeError`` if that is impossible."""
        sqlite_fork.check_usable()
        request = replace(self._request, parent=os.getppid())
        self._recorder = _make_recorder(request)
        self._recorder.start()
        self.register_exit()
        os.environ.update(replace(request, parent=os.getpid()).variables(os.environ))

    def register_exit(self) -> None:
        """Stop the recording at exit: processes of multiprocessing end without Python's exit handlers."""
        multiprocessing.util.Finalize(None, self._stop_recorder, exitpriority=-1_000)

    def _stop_recorder(self) -> None:
        self._patches.restore()  # they lie on top of the recorder's
        with contextlib.suppress(GradprobeError):
            self._recorder.stop()

    def _patch(self, owner: Any, name: str = "__init__") -> list[Patch]:
        original, note = getattr(owner, name), self._note_start

        @functools.wraps(original)
        def method(started: Any, *arguments: Any, **named: Any) -> Any:
            grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            result = original(started, *arguments, **named)
            with contextlib.suppress(Exception):
                note(started.pid, grad, inference)
            return result

        return [Patch(owner, name, method)]

    def _note_start(self, pid: int, grad: bool, inference: bool) -> None:
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and not self._is_user_frame(frame):
            frame = frame.f_back
        at = None if frame is None else locate_instruction("", frame.f_code, frame.f_lasti)
        place = ("", 0, "") if at is None else (at.file, at.line, at.function)
        self._recorder._add_note(NoteKind.STARTED_PROCESS, StartedProcess(pid, grad, inference, *place).text())

    def _is_user_frame(self, frame: FrameType) -> bool:
        file = frame.f_code.co_filename
        is_library = file.startswith(_STANDARD_LIBRARY) and _INSTALLED not in file
        return not is_library and not file.startswith("<frozen") and self._codes.kind(frame.f_code) == USER


def follow_process(request: Mapping[str, Any]) -> None:
    """Record the current process, which was started as a child, as its environment requests."""
    own_request = FollowRequest(**json.loads(json.dumps(request)))
    recorder = _make_recorder(own_request)
    recorder.start()
    follower = Follower(recorder, own_request)
    follower.start()
    follower.register_exit()


def _make_recorder(request: FollowRequest) -> Recorder:
    recorder = Recorder(
        request.path(), level=request.level, include_torch=request.include_torch, overwrite=True, parent=request.parent
    )
    recorder._outlives_exit_handlers = True
    return recorder


def _after_fork() -> None:
    if _follower is not None:
        try:
            _follower.record_child()
        except Exception as error:
            sys.stderr.write(f"gradprobe: process {os.getpid()} is not recorded: {error}\n")


lifecycle.register(lifecycle.Order.FOLLOWER, in_child=_after_fork)
