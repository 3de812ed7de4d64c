"""What a public function of a library gives to callers that are not seen leaves a swap unproven."""

from __future__ import annotations

import pytest

from gradprobe.advice.library_results import find_escapes
from gradprobe.advice.line_trace import GRAD, INFERENCE
from gradprobe.advice.manager_sites import SourceFile
from gradprobe.advice.program_model import Coverage, ProgramModel

BLOCK = "    with torch.no_grad():\n        y = net(x)  # block\n"
METHOD = "class C:\n    def f(self, net, x):\n        with torch.no_grad():\n            self.NAME = net(x)  # here"
ESCAPING = {
    "returned": f"def f(net, x):\n{BLOCK}    return y  # here",
    "returned in a container": f"def f(net, x):\n{BLOCK}    return {{'y': y}}  # here",
    "returned by another function": (
        f"def _f(net, x):\n{BLOCK}    return y\n\n\ndef g(net, x):\n    return _f(net, x)  # here"
    ),
    "yielded": f"def f(net, x):\n{BLOCK}    yield y  # here",
    "kept in a public attribute": METHOD.replace("NAME", "y"),
    "put into an argument": "def f(net, x, out):\n    with torch.no_grad():\n        out.append(net(x))  # here",
    "called and offered": (
        f"__all__ = ['f']\n\n\ndef f(net, x):\n{BLOCK}    return y  # here\n\n\ndef g(net, x):\n    print(f(net, x))"
    ),
}
HARMLESS = {
    "a number": f"def f(net, x):\n{BLOCK}    return y.sum().item(), y.tolist(), str(y), len(y) > 2",
    "private": f"def _f(net, x):\n{BLOCK}    return y",
    "local": "def g(net, x):\n    def f():\n        with torch.no_grad():\n            return net(x)\n    return f() > 1",
    "called by the library itself": f"def f(net, x):\n{BLOCK}    return y\n\n\ndef g(net, x):\n    return f(net, x).item()",
    "a private attribute": METHOD.replace("NAME", "_y"),
}


def find(text: str, *, is_seen_plain: bool = False) -> list[int]:
    text = "import torch\n\n\n" + text
    file = SourceFile("/lib.py", text)
    lines = {
        ("/lib.py", number): {INFERENCE if line.endswith("# block") else GRAD}
        for number, line in enumerate(text.splitlines(), 1)
    }
    functions = {("/lib.py", number) for number, line in enumerate(text.splitlines(), 1) if "def " in line}
    found = find_escapes(
        ProgramModel([file]), Coverage(lines, [file]), file.sites[0], set() if is_seen_plain else functions
    )
    return sorted(each.line for each in found)


@pytest.mark.parametrize("name", ESCAPING)
def test_the_line_that_gives_a_tensor_away_is_named(name: str) -> None:
    text = "import torch\n\n\n" + ESCAPING[name]
    assert find(ESCAPING[name]) == [n for n, line in enumerate(text.splitlines(), 1) if line.endswith("# here")]


@pytest.mark.parametrize("name", HARMLESS)
def test_what_stays_inside_or_is_no_tensor_is_not_named(name: str) -> None:
    assert find(HARMLESS[name]) == []


def test_a_result_that_was_never_a_tensor_is_harmless() -> None:
    text = "def f(net, x):\n    with torch.no_grad():\n        return count(net(x))"
    assert find(text) == [6]
    assert find(text, is_seen_plain=True) == []
