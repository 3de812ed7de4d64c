"""What gradprobe finds in this PyTorch, and what it does where something is missing."""

from __future__ import annotations

import threading

import torch

from gradprobe.capture.session import node_counter
from gradprobe.capture.transitions import KNOWN_METHODS, is_known


def capabilities() -> list[tuple[str, bool, str]]:
    """For each thing that a recording builds on: its name, whether it is there, and what follows."""
    found = [
        (
            f"torch.{owner.__name__}.{name}",
            is_known(owner, name),
            "done over" if is_known(owner, name) else "called through, which costs more",
        )
        for owner, name in KNOWN_METHODS
    ]
    counts = node_counter() is not None
    found.append(("autograd node counter", counts, "nodes are counted" if counts else "nodes are not counted"))
    threads = hasattr(threading.Thread, "_bootstrap_inner")
    found.append(("thread start", threads, "threads are told apart" if threads else "threads may be mixed up"))
    cuda = torch.cuda.is_available()
    found.append(("CUDA device", cuda, torch.cuda.get_device_name(0) if cuda else "device time is not measured"))
    return found
