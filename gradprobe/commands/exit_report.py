"""Last steps of a recorded run: stop recording after the program's exit handlers, and name the file."""

from __future__ import annotations

import atexit
import contextlib
import os
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from gradprobe.errors import GradprobeError
from gradprobe.refusals.table import OTHER, find_refusal
from gradprobe.subprocesses.follow_request import FollowRequest, find_child_files, make_stem

if TYPE_CHECKING:
    from gradprobe.recorder import Recorder
    from gradprobe.subprocesses.follower import Follower


class ExitReport:
    """Exit handler that runs after the threads and exit handlers of the program and of all libraries."""

    def __init__(self) -> None:
        self.code = 0
        self._reason: str | None = None
        self._process = os.getpid()
        self._recorder: Recorder | None = None
        self._output = self._shown = Path()
        self._html: Path | None = None
        self._rank: int | None = None
        self._folder = os.getcwd()
        self._follower: Follower | None = None
        self._refused = ""

    def expect(self, output: Path, html: Path | None, rank: int | None) -> None:
        """Remember what to report; ``rank`` is part of the file names if it is not None."""
        self._output, self._shown, self._html, self._rank = output.absolute(), output, html, rank
        # Registered before any handler of the program and of its libraries, these are called after them, so that the
        # handlers are recorded too; the last one registered is called first.
        atexit.register(self)
        atexit.register(self._stop)

    def record(self, recorder: Recorder) -> None:
        """Remember what to stop: the recorder, which has been started."""
        self._recorder = recorder
        recorder._outlives_exit_handlers = True

    def explain(self, reason: str) -> None:
        """Remember why nothing could be recorded."""
        self._reason = reason

    def follow(self, level: str, *, include_torch: bool) -> None:
        """Record the Python processes that this one starts as well."""
        from gradprobe.subprocesses.follower import Follower

        assert self._recorder is not None
        request = FollowRequest(make_stem(self._output), level, include_torch, self._process)
        self._follower = Follower(self._recorder, request)
        self._follower.start()

    def annotate_exception(self, error: BaseException) -> None:
        """Let the recorder explain the exception that ends the program."""
        if self._recorder is not None and os.getpid() == self._process:
            self._recorder._annotate_exception(error)
            self._remember_refusal(error)

    def _remember_refusal(self, error: BaseException) -> None:
        """Remember the rule of an exception of autograd that this level of detail cannot explain."""
        refusal = find_refusal(str(error))
        if self._recorder is not None and self._recorder._level != "ops" and refusal is not None and refusal != OTHER:
            self._refused = refusal.rule

    def discard(self) -> None:
        """Remove the recording, because no program was run."""
        atexit.unregister(self)
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.stop()
            self._output.unlink(missing_ok=True)

    def __call__(self) -> None:
        """Report where the recording is, or end with exit code 2 if it could not be completed."""
        if os.getpid() != self._process:
            return
        if self._recorder is None:
            if self._reason is None:
                print_to_stderr("gradprobe: nothing was recorded, because the program did not import torch")
            elif self.code == 0:
                os._exit(2)
            return
        failure = self._recorder._failure
        if not self._output.exists():
            problem = "is gone: it was removed or renamed while it was recorded; record again"
        elif failure is not None:
            problem = f"is incomplete: {failure}; free some space there, or name another place with -o"
        else:
            problem = None
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        if problem is None:
            self._name_next_command()
            problem = self._write_html()
        if problem is None:
            return
        print_to_stderr(f"gradprobe: {self._shown} {problem}")
        if self.code == 0:
            os._exit(2)

    def _stop(self) -> None:
        if self._recorder is not None and os.getpid() == self._process:
            if self._follower is not None:
                self._follower.stop()
            with contextlib.suppress(GradprobeError), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # problems are reported at the very end
                self._recorder.stop()

    def _name_next_command(self) -> None:
        children = self._find_children()
        more = f" and {len(children)} more" if children else ""
        shown = shlex.quote(str(self._shown))
        if self._rank is not None:
            # The recordings of all ranks belong together.
            shown = shown.replace(f".rank{self._rank}", ".rank*")
        files = [shown, *(shlex.quote(os.path.relpath(path, self._folder)) for path in children)]
        print_to_stderr(f"gradprobe: recorded to {self._shown}{more}; see: gradprobe report {' '.join(files)}")

        if self._refused:
            print_to_stderr(
                f"gradprobe: the exception is one of autograd ({self._refused}): --level ops shows the lines that led to it"
            )

    def _write_html(self) -> str | None:
        """Write the requested page, and return what went wrong, or None.

        Another process writes it, because the program may have changed anything in this one.
        """
        if self._html is None:
            return None
        words = ["report", "--force", *map(str, [self._output, *self._find_children()]), "-o", str(self._html)]
        try:
            command = [sys.executable, "-m", "gradprobe", *words]
            ended = subprocess.run(command, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        except OSError as error:
            return f"is recorded, but {self._html} could not be written: {error.strerror}"
        if ended.returncode == 0:
            print_to_stderr(f"gradprobe: wrote {self._html}")
            return None
        reasons = ended.stderr.decode(errors="backslashreplace").strip().splitlines()
        return f"is recorded, but {self._html} could not be written: {reasons[-1] if reasons else 'no reason given'}"

    def _find_children(self) -> list[Path]:
        return find_child_files(self._output) if self._follower is not None else []


def print_to_stderr(line: str) -> None:
    """Print a line to the original standard error, because the program may have replaced ``sys.stderr``."""
    if sys.__stderr__ is not None:
        with contextlib.suppress(OSError, ValueError):
            print(line, file=sys.__stderr__, flush=True)
