"""Fixes name what the source has, and fit what the code around it does."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from gradprobe.analysis.findings.source_fixes import advise_detaching
from gradprobe.analysis.findings.syntax import ParsedFile
from gradprobe.scan.source_files import scan_paths

SEVERAL = "tensors without their graphs: call `.detach()` on each that this line stores."
HEAD = "import torch\nfrom torch import no_grad as off\n"
FIXES = {
    "a statement": (
        "def f(m, x):\n    torch.no_grad()\n    return m(x)\n",
        "Enter it: put the code that it is meant for into `with torch.no_grad():`.",
    ),
    "a name without brackets": (
        "def f(m, x):\n    off\n    return m(x)\n",
        "Enter it: put the code that it is meant for into `with off():`.",
    ),
    "inference mode in a variable": (
        "def f(m, x):\n    guard = torch.inference_mode()\n    return m(x)\n",
        "Enter it: put the code that it is meant for into `with torch.inference_mode():`.",
    ),
    "training below": (
        "def f(m, x):\n    torch.no_grad()\n    loss = m(x).sum()\n    loss.backward()\n",
        "Remove it: `loss.backward()` at line 6 needs the graph that the code before it builds. Enter `with "
        "torch.no_grad():` only around code whose result no backward pass uses.",
    ),
    "training in the same loop": (
        "for x in data:\n    m(x).sum().backward()\n    off()\n    m(x)\n",
        "Remove it: `m(x).sum().backward()` at line 4 needs the graph that the code before it builds. Enter `with off():` "
        "only around code whose result no backward pass uses.",
    ),
    "training of another function": (
        "def f(m, x):\n    torch.no_grad()\n    return m(x)\ndef g(loss):\n    loss.backward()\n",
        "Enter it: put the code that it is meant for into `with torch.no_grad():`.",
    ),
    "grad that is enabled for training": (
        "def f(m, x):\n    torch.enable_grad()\n    m(x).sum().backward()\n",
        "Enter it: put the code that it is meant for into `with torch.enable_grad():`.",
    ),
    "a coroutine that awaits nothing": (
        "@torch.no_grad()\nasync def f(m, x):\n    return m(x)\n",
        "Remove the decorator, and put the body of f into `with torch.no_grad():`.",
    ),
    "a coroutine that awaits": (
        "@torch.inference_mode\nasync def f(m, x):\n    return m(await x)\n",
        "Remove the decorator, and enter `with torch.inference_mode():` in the body of f, around the lines that compute "
        "but not around an `await` or `yield`.",
    ),
}


@pytest.mark.parametrize("name", FIXES)
def test_a_scan_advises_what_fits(name: str, tmp_path: Path) -> None:
    source, fix = FIXES[name]
    (tmp_path / "program.py").write_text(HEAD + source, encoding="utf-8")
    (finding,) = scan_paths([tmp_path]).findings
    assert finding.advice == fix


@pytest.mark.parametrize(
    ("statement", "fix"),
    [
        ("total += loss", "Add `loss.detach()` instead: it has no graph."),
        ("total = total + loss * 2", "Store `(total + loss * 2).detach()` instead: it has no graph."),
        ("history.append(loss)", "Store `loss.detach()` instead: it has no graph."),
        ("cache[key] = model(x)", "Store `model(x).detach()` instead: it has no graph."),
        ("self.state = out[0]", "Store `out[0].detach()` instead: it has no graph."),
        (
            "history.append((step, loss))",
            f"Store {SEVERAL}",
        ),
        ("kept = Result(loss)", f"Store {SEVERAL}"),
        ("losses += [loss]", f"Add {SEVERAL}"),
        ("print(loss)", ""),
        ("if loss: pass", ""),
    ],
)
def test_detaching_names_the_expression(statement: str, fix: str) -> None:
    assert advise_detaching(ParsedFile("a.py", ast.parse(statement)), 1) == fix
