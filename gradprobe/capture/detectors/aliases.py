"""Detector of aliases that were taken for copies (GP606 to GP608).

A snapshot, a history or a stored observation that shares its memory with the tensor it was taken from follows each later
write. It shows where several tensors over one memory meet in one operator: one is copied onto the other, compared with it,
or all are stacked.
"""

from __future__ import annotations

from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.recording.notes import SourceLocation

COPIED_ONTO_ITSELF, COMPARED_WITH_ITSELF, STACKED_ON_ITSELF = 1, 2, 3
"""Uses of several tensors over one memory; the observer's library uses the same numbers."""

_RULES = {COPIED_ONTO_ITSELF: "GP606", COMPARED_WITH_ITSELF: "GP607", STACKED_ON_ITSELF: "GP608"}

Made = tuple[int, int, int]
"""Identity of the code object and offset of the line that made an alias, and how often its memory was written since."""


class AliasDetector:
    """Detector of one thread."""

    def __init__(self, log: DetectionLog) -> None:
        self._log = log

    def on_aliases(self, use: int, code: int, offset: int, number: int, leaf: int, made: list[Made]) -> None:
        """Look at an operator that took ``number`` tensors over one memory.

        Args:
            use: What the operator does with them.
            code: The identity of the code object of its line.
            offset: The offset of the instruction.
            number: The number of the tensors.
            leaf: The number of the leaf whose memory it is, in the flow ledger; 0 for none.
            made: The tensors whose creation is known.
        """
        held = self._log.codes.held
        at = locate_instruction("used here", held.get(code), offset)
        writes = max((count for _, _, count in made), default=0)
        if use == COPIED_ONTO_ITSELF and not writes:
            return  # nothing has changed since the alias was made, so nothing is lost
        lines: dict[SourceLocation | None, None] = {at: None}
        for made_by, made_at, _ in made:
            lines[locate_instruction("alias made here", held.get(made_by), made_at)] = None
        self._log.add(_RULES[use], list(lines), number=number, leaf=leaf, writes=writes)
