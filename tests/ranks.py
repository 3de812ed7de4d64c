"""A program as two ranks, without the seconds that a launcher and each rank take to import torch."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests import warm_python

LAUNCHER = """
import os, runpy, socket, sys

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]), WORLD_SIZE="2")
other = os.fork()
os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if other else "1"
code = 0
try:
    if sys.argv[1] == "-m":
        sys.argv = sys.argv[2:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = sys.argv[1:]
        runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as leaving:
    code = leaving.code
sys.exit(code or (os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) if other else 0))
"""


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    """Return the end of ``python WORDS``, a script or ``-m`` and a module, as two ranks of which this is the first."""
    return warm_python.run("-c", LAUNCHER, *words, cwd=cwd)
