"""Runs programs and commands in forks of a process that has imported what they need: most of their time are these imports.

The pages have about a hundred of them. Started by ``Programs``; reads a request per line and answers with an exit code.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

PATIENCE_S = 180


class Programs:
    """The server, as a context manager. ``run`` gives the exit code and the output of one program."""

    def __enter__(self) -> Programs:
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def run(self, words: list[str], folder: Path) -> tuple[int, str]:
        """Run ``gradprobe ...`` or ``python SCRIPT`` in a folder."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        output = folder / "output.txt"
        print(json.dumps({"words": words, "folder": str(folder), "output": str(output)}), file=self._server.stdin)
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline()), output.read_text(encoding="utf-8")


def serve() -> None:
    """Answer requests until there are no more; in a fork, become the program that was asked for."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    import_module("torch")
    for name in ("pandas", "altair", "vl_convert"):
        with contextlib.suppress(ModuleNotFoundError):
            import_module(name)
    import gradprobe

    for _, name, _ in pkgutil.walk_packages(gradprobe.__path__, "gradprobe."):
        if name.startswith(("gradprobe.commands", "gradprobe.report", "gradprobe.capture")):
            import_module(name)
    gc.collect()
    gc.freeze()  # so that collections of a fork do not copy what it shares
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            become(**request)
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def become(words: list[str], folder: str, output: str) -> None:
    """Run a program as Python would; the interpreter then ends as always, with its threads and exit handlers."""
    signal.alarm(PATIENCE_S)
    os.chdir(folder)
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor, to in ((os.open(os.devnull, os.O_RDONLY), 0), (written, 1), (written, 2)):
        os.dup2(descriptor, to)
    # The server's own reader has lines in its buffer, which are not the program's.
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    program, *rest = words
    if program == "gradprobe":
        sys.argv, sys.path[0] = [program, *rest], folder
        runpy.run_module("gradprobe", run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = rest, folder
        runpy.run_path(rest[0], run_name="__main__")


if __name__ == "__main__":
    serve()
