"""The start of a recording at the program's import of torch.

Until then no library is imported into the program's process that the program has not imported: torch and the libraries
below it read environment variables while they are imported, and a program may set these in its first lines.
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

from gradprobe.capture.patching.post_import import PostImportHook
from gradprobe.commands.exit_report import ExitReport, print_to_stderr


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

            recorder = Recorder(
                output,
                level=options.level,
                include_torch=options.include_torch,
                force=options.force,
                profiler_ranges=options.profiler_ranges,
                composite_parts=options.composite_parts,
            )
            recorder.start()
            ending.record(recorder)
            if options.follow:
                ending.follow(options.level, include_torch=options.include_torch)
        except Exception as error:  # the program goes on, whatever keeps gradprobe from recording it
            ending.explain(str(error))
            print_to_stderr(f"gradprobe: {error}")
        finally:
            sys.path[:] = path
            if collects:
                gc.enable()

    PostImportHook("torch", start).begin()
