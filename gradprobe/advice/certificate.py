"""The certificate of a site: the verdict on it, and the lines that show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradprobe.advice.manager_sites import Site

SWAP, KEEP, UNPROVEN = "swap", "keep", "unproven"


@dataclass(frozen=True)
class Proof:
    """A line, and what it shows."""

    file: str
    line: int
    role: str


@dataclass(frozen=True)
class Certificate:
    """The verdict on one site.

    ``reason`` is a class of ``reasons.REASONS``; ``together`` has the lines of the sites that have to be exchanged too.
    """

    site: Site
    verdict: str
    reason: str
    message: str
    proof: tuple[Proof, ...] = ()
    together: tuple[int, ...] = ()
    gain: dict[str, Any] | None = None
    patch: str = ""
    kept_bytes: int = 0
    """Bytes of the tensors that were seen to leave the block."""
