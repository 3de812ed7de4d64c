"""The rank of this process in a job."""

from __future__ import annotations

import os


def read_rank() -> int | None:
    """Return this process's rank in a job of torchrun or another launcher; None outside of one."""
    text = os.environ.get("RANK", "")
    return int(text) if text.isdecimal() else None
