"""Explanation of a line, parameter, module or tensor, and the lines of the program that it names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Place(NamedTuple):
    """A line of the program that an explanation names; an item of ``Explanation.places``.

    Attributes:
        role (str): The part that it plays, such as ``"cut here"`` or ``"mode entered here"``.
        file (str): File of the line.
        line (int): Number of the line.

    Example::

        for role, file, line in recording.why("encoder.weight").places:
            print(f"{file}:{line}: {role}")
    """

    role: str
    file: str
    line: int


@dataclass(frozen=True)
class Explanation:
    """Answer of ``gradprobe.why(tensor)`` and ``recording.why(target)``; ``str(explanation)`` is the text.

    It consists of plain values and keeps no tensor alive.

    Attributes:
        cause (str): how gradient gets here, or why it does not, in a sentence.
        places (tuple of Place): the lines that take part in it, the most important one first.
        fix (str): the edit that changes it; empty if nothing is wrong.
        text (str): all of the story.

    Example::

        with gradprobe.record(level="ops"):
            loss = train_step(model, batch)
            print(gradprobe.why(loss).cause)
    """

    cause: str
    places: tuple[Place, ...]
    fix: str
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass
class Story:
    """An explanation that is being written.

    ``subject`` is the heading, ``cause`` the first sentence; ``lines`` follow, each with a label.
    """

    subject: str
    cause: str = ""
    fix: str = ""
    lines: list[tuple[str, str]] = field(default_factory=list)
    places: dict[tuple[str, int], Place] = field(default_factory=dict)
    told: set[tuple[str, int]] = field(default_factory=set)
    """Lines of which the story says why they cut the graph."""

    def tell(self, label: str, text: str) -> None:
        """Add a line, unless there is nothing to say."""
        if text:
            self.lines.append((label, text))

    def name(self, role: str, file: str, line: int) -> str:
        """Add a place, and return it as text."""
        if file and line > 0:
            self.places.setdefault((file, line), Place(role, file, line))
        return show_place(file, line)

    def finish(self) -> Explanation:
        """Return the explanation."""
        told = [self.subject, f"  {self.cause}", *(f"  {label}: {text}" for label, text in self.lines)]
        if self.fix:
            told.append(f"  Fix: {self.fix}")
        text = "\n".join(map(_make_printable, told))
        return Explanation(_make_printable(self.cause), tuple(self.places.values()), self.fix, text)


def show_place(file: str, line: int) -> str:
    """Return ``file:line``, relative to the working directory if that is shorter."""
    if not file:
        return "an unknown line"
    try:
        relative = os.path.relpath(file)
    except ValueError:  # another drive, or no path at all
        relative = file
    return f"{relative if len(relative) < len(file) else file}:{line}"


def join_names(names: Sequence[str], limit: int = 3) -> str:
    """Return names as a list, of which the first ``limit`` are written out."""
    known = list(dict.fromkeys(names))
    more = len(known) - limit
    return ", ".join(known[:limit]) + (f" and {more:,} more" if more > 0 else "")


def _make_printable(text: str) -> str:
    """Return ``text`` without characters that steer a terminal; names in it come from the program or a file."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
