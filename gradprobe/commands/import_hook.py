"""The start of a recording at the program's import of torch.

Until then no library is imported into the program's process that the program has not imported: torch and the libraries
below it read environment variables while they are imported, and a program may set these in its first lines.
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

from gradprobe._levels import DEFAULT_LEVEL
from gradprobe.capture.patching.post_import import PostImportHook
from gradprobe.commands.exit_report import ExitReport, print_to_stderr
from gradprobe.errors import GradprobeError


def record_from_import(options: argparse.Namespace, ending: ExitReport, output: Path, own_path: list[str]) -> None:
    """Record the program once it has imported torch.

    Args:
        options: The options of ``run``.
        ending: Stops the recording when the program ends.
        output: The file to record to.
        own_path: ``sys.path`` without the program's folder, where a file may have the name of a library.
    """

    def start() -> None:
        path, collects = sys.path[:], gc.isenabled()
        sys.path[:] = own_path
        gc.disable()  # the imports would begin a collection of all that torch has made, which takes longer than they do
        try:
            from gradprobe.recorder import Recorder

            level = options.level or _choose_level()
            recorder = Recorder(
                output,
                level=level,
                include_torch=options.include_torch,
                force=options.force,
                profiler_ranges=options.profiler_ranges,
                composite_parts=options.composite_parts,
            )
            recorder.start()
            ending.record(recorder)
            if options.follow:
                ending.follow(level, include_torch=options.include_torch)
        except Exception as error:  # the program goes on, whatever keeps gradprobe from recording it
            ending.explain(str(error))
            print_to_stderr(f"gradprobe: {error}")
        finally:
            sys.path[:] = path
            if collects:
                gc.enable()

    PostImportHook("torch", start).begin()


def _choose_level() -> str:
    """Return the most detailed level at which this process can be recorded. Most problems are found at level ops alone."""
    from gradprobe.recorder import check_level

    try:
        return check_level("ops")
    except GradprobeError as error:
        print_to_stderr(f"gradprobe: {error}")
        print_to_stderr("gradprobe: recording at level 'graph', at which most problems are not found")
        return DEFAULT_LEVEL
