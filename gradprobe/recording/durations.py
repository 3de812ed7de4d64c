"""Duration classes: logarithmic bins in which folded blocks keep the distribution of their durations."""

from __future__ import annotations

_BINS_PER_DOUBLING = 8

MAX_DURATION_CLASS = 512
"""Upper bound of all duration classes: there are eight to each doubling, and times have 63 bits."""


def duration_class(duration_ns: int) -> int:
    """Return the class of a duration: eight to each doubling, whose middle is at most 6 % off."""
    shift = max(duration_ns.bit_length() - 4, 0)
    return shift * _BINS_PER_DOUBLING + (duration_ns >> shift)


def class_middle(duration: int) -> float:
    """Return the middle of a duration class in nanoseconds."""
    if duration < 2 * _BINS_PER_DOUBLING:
        return float(duration)
    shift = duration // _BINS_PER_DOUBLING - 1
    return float((duration - shift * _BINS_PER_DOUBLING << shift) + ((1 << shift) - 1) / 2)
