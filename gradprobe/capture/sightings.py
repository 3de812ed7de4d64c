"""Collects what detectors see go wrong, each thing once with its count, until the recordings take it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import Any

from gradprobe.capture.codes import USERS, Codes
from gradprobe.capture.places import lines
from gradprobe.recording.sightings import Sighting, Spot, Under

_MOST = 1_000
"""Of so many different ones in one round of writing; what comes after that is more of the same."""


class Sightings:
    """What was seen since it was last taken."""

    def __init__(self, codes: Codes, now: Callable[[], int]) -> None:
        self.codes, self.now = codes, now
        self._found: dict[tuple[Any, ...], tuple[Sighting, int]] = {}

    def add(self, rule: str, spots: Sequence[Spot | None], under: Sequence[Under] = (), **facts: Any) -> None:
        """Notes a sighting of ``rule``; the first spot is the main one. Without a line of the program there is none.

        Of what is seen again at the same lines, the first time's ``under`` and ``facts`` are kept.
        """
        known = [spot for spot in spots if spot is not None]
        if not known:
            return
        key = (rule, *known)
        sighting, count = self._found.get(key) or (Sighting(rule, known, list(under), facts), 0)
        if count or len(self._found) < _MOST:
            self._found[key] = sighting, count + 1

    def take(self) -> list[tuple[str, int]]:
        """All of them as text with their counts, and forgets them."""
        found, self._found = self._found, {}
        return [(sighting.text(), count) for sighting, count in found.values()]

    def users_frame(self, frame: FrameType | None) -> FrameType | None:
        """The innermost frame of the program, from ``frame`` outwards."""
        while frame is not None and self.codes.kind(frame.f_code) != USERS:
            frame = frame.f_back
        return frame

    def spot_of(self, role: str, frame: FrameType | None) -> Spot | None:
        """The program's line behind ``frame``."""
        found = self.users_frame(frame)
        return None if found is None else spot(role, found.f_code, found.f_lasti)


def spot(role: str, code: CodeType | None, offset: int) -> Spot | None:
    """The line of an instruction."""
    if code is None:
        return None
    return Spot(role, code.co_filename, lines(code, offset)[0], getattr(code, "co_qualname", code.co_name))
