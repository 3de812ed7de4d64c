"""Matching of the lines of two recordings, whose files may have moved and whose lines may have changed their numbers.

A line is recognised by its function and its text. Line numbers decide only where a recording has no text.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import PurePath
from typing import NamedTuple


class Line(NamedTuple):
    """A recorded line; ``text`` is empty if it is not known."""

    file: str
    number: int
    function: str
    text: str


Place = tuple[str | None, int | None]
"""File and line of something recorded; None where it is not known."""


@dataclass(frozen=True)
class LineMatching:
    """Lines of an earlier recording, each with its line in the later one."""

    lines: Mapping[tuple[str, int], tuple[str, int]]

    def find(self, place: Place) -> Place | None:
        """Return the place in the later recording, or None if it has none. What has no place stays without one."""
        file, line = place
        return (None, None) if file is None or line is None else self.lines.get((file, line))


def match_lines(before: Sequence[Line], after: Sequence[Line], programs: tuple[str, str] = ("", "")) -> LineMatching:
    """Match the lines of two recordings. ``programs`` are the file names of their main scripts."""
    by_file = _group_by_file(before), _group_by_file(after)
    found: dict[tuple[str, int], tuple[str, int]] = {}
    for file, other in _pair_files(by_file[0], by_file[1], programs).items():
        for number, match in _match_in_file(by_file[0][file], by_file[1][other]).items():
            found[file, number] = other, match
    return LineMatching(found)


def _group_by_file(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """Return the lines of each file in their order, each number once."""
    found: dict[str, dict[int, Line]] = defaultdict(dict)
    for line in lines:
        known = found[line.file].get(line.number)
        if known is None or (line.text and not known.text):
            found[line.file][line.number] = line
    return {file: [numbers[number] for number in sorted(numbers)] for file, numbers in found.items()}


def _pair_files(
    before: Mapping[str, list[Line]], after: Mapping[str, list[Line]], programs: tuple[str, str]
) -> dict[str, str]:
    """Pair each file with itself, or else with the one that has most of its path, or else of its functions and lines."""
    pairs = {file: file for file in before if file in after}
    left, right = [f for f in before if f not in pairs], [f for f in after if f not in pairs]

    def score(file: str, other: str) -> tuple[int, int]:
        are_main = (PurePath(file).name, PurePath(other).name) == programs and all(programs)
        return _count_common_parts(file, other) + are_main, _count_common_lines(before[file], after[other])

    scored = sorted(((score(a, b), a, b) for a in left for b in right), key=lambda one: one[0], reverse=True)
    for (parts, lines), file, other in scored:
        if (parts or lines) and file not in pairs and other not in pairs.values():
            pairs[file] = other
    return pairs


def _count_common_parts(file: str, other: str) -> int:
    """Return how many names at the end of two paths are equal."""
    count = 0
    for one, two in zip(reversed(PurePath(file).parts), reversed(PurePath(other).parts), strict=False):
        if one != two:
            break
        count += 1
    return count


def _count_common_lines(before: Sequence[Line], after: Sequence[Line]) -> int:
    """Return how many lines with a text of their own are in both files."""
    texts = {(line.function, line.text) for line in before if line.text}
    return len(texts & {(line.function, line.text) for line in after})


def _match_in_file(before: Sequence[Line], after: Sequence[Line]) -> dict[int, int]:
    """Match the lines of one file: in order by function and text, then moved lines, then edited ones."""
    if not all(line.text for line in (*before, *after)):
        return _match_without_text(before, after)
    found: dict[int, int] = {}
    keys = [(line.function, line.text) for line in before], [(line.function, line.text) for line in after]
    edited: list[tuple[Sequence[Line], Sequence[Line]]] = []
    for tag, low, high, other_low, other_high in SequenceMatcher(None, *keys, autojunk=False).get_opcodes():
        if tag == "equal":
            found |= {a.number: b.number for a, b in zip(before[low:high], after[other_low:other_high], strict=True)}
        elif tag == "replace":
            edited.append((before[low:high], after[other_low:other_high]))
    _match_moved(before, after, found, lambda line: (line.function, line.text))
    _match_moved(before, after, found, lambda line: line.text)
    taken = set(found.values())
    for old, new in edited:
        free = [line for line in old if line.number not in found], [line for line in new if line.number not in taken]
        # Lines that took the place of as many others in the same function are those lines, edited.
        if [line.function for line in free[0]] == [line.function for line in free[1]]:
            found |= {a.number: b.number for a, b in zip(*free, strict=True)}
    return found


def _match_moved(
    before: Sequence[Line], after: Sequence[Line], found: dict[int, int], key: Callable[[Line], object]
) -> None:
    """Add to ``found`` the lines that are in both files once by ``key`` and have no match yet."""
    taken = set(found.values())
    old = [line for line in before if line.number not in found]
    new = [line for line in after if line.number not in taken]
    counts = Counter(map(key, old)), Counter(map(key, new))
    places = {key(line): line.number for line in new}
    for line in old:
        if counts[0][key(line)] == counts[1][key(line)] == 1:
            found[line.number] = places[key(line)]


def _match_without_text(before: Sequence[Line], after: Sequence[Line]) -> dict[int, int]:
    """Match by number if one side's lines are all on the other, or else in the order of their functions."""
    old, new = ({(line.function, line.number) for line in lines} for lines in (before, after))
    if old <= new or new <= old:
        return {number: number for _, number in old & new}
    keys = [line.function for line in before], [line.function for line in after]
    blocks = SequenceMatcher(None, *keys, autojunk=False).get_matching_blocks()
    return {before[a + i].number: after[b + i].number for a, b, size in blocks for i in range(size)}
