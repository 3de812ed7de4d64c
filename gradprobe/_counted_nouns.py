"""Numbers with their nouns, as sentences have them."""

from __future__ import annotations


def pluralize(number: int, noun: str, plural: str = "") -> str:
    """Return ``number`` and the singular or plural of ``noun``."""
    if number == 1:
        return f"{number:,} {noun}"
    return f"{number:,} {plural or noun + ('es' if noun.endswith('s') else 's')}"


def times(number: int) -> str:
    """Return how many times."""
    return "once" if number == 1 else f"{number:,} times"
