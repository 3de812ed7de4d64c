"""Versions, machine and process that a recording or a comparison was made with."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

import torch

from gradprobe._rank import read_rank
from gradprobe._version import __version__


def environment(level: str | None = None, parent: int | None = None) -> dict[str, Any]:
    """Return versions, machine and process, but no environment variables and no arguments.

    Args:
        level: level of a recording, which adds ``level``, ``process`` and ``rank``. None, the default, describes what
            several processes have in common, as a comparison needs.
        parent: id of the process on whose behalf this one is recorded.
    """
    cuda: Any = torch.cuda
    facts: dict[str, Any] = {"gradprobe": __version__}
    if level is not None:
        facts["level"] = level
    facts |= {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": _machine(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        # The name of a device that was never used would initialize CUDA.
        "accelerator": cuda.get_device_name(0) if cuda.is_initialized() else None,
    }
    if level is not None:
        facts["process"] = os.getpid()
    facts["parent"] = parent
    if level is not None:
        facts["rank"] = read_rank()
    facts["program"] = os.path.basename(sys.argv[0]) if sys.argv else ""
    return facts


def _machine() -> str:
    """Return the name of the system and the machine.

    ``platform.platform`` starts a process to ask for the processor, which the user's program may count, under a lock that
    a fork leaves held.
    """
    known = platform.uname()
    return f"{known.system}-{known.release}-{known.machine}"
