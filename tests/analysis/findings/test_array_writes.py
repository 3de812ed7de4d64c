"""Writes to arrays are found in the source by the names of the arrays."""

from __future__ import annotations

import ast

import pytest

from gradprobe.analysis.findings.array_writes import find_writes_after, find_writes_to_wrapped
from gradprobe.analysis.findings.syntax import ParsedFile


def parse(text: str) -> ParsedFile:
    return ParsedFile("program.py", ast.parse(text))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a = t.numpy()\na += 1\nb = a\n", [2]),
        ("a = t.numpy()\nb = a.reshape(-1)[2:]\nb[0] = 1\n", [3]),
        ("self.arrays = [p.numpy() for p in ps]\nfor x in self.arrays:\n    np.round(x, out=x)\n", [3]),
        ("a = t.numpy()\nnp.copyto(a, 0)\na.fill(1)\n", [2, 3]),
        ("def view(t):\n    return t.numpy()\nv = view(t)\nv *= 2\n", [4]),
        ("a = t.numpy()\nb = a.copy()\nb += 1\nc[0] = a\n", []),
        ("a = t.numpy()\na = a + 1\nprint(a)\n", []),
    ],
)
def test_a_shared_array_is_followed_by_its_names(text: str, lines: list[int]) -> None:
    shared = next(n for n, line in enumerate(text.splitlines(), 1) if ".numpy()" in line)
    assert find_writes_after(parse(text), shared) == lines


def test_a_wrapped_array_is_followed_by_its_name() -> None:
    text = "memory = np.zeros(3)\nx = torch.from_numpy(memory)\nmemory[...] = 1\nother[...] = 2\n"
    assert find_writes_to_wrapped(parse(text)) == [3]
