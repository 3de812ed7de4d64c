"""Custom Functions: what makes a cycle or asks for the mode in vain is reported, and what resembles it is not."""

from __future__ import annotations

import runpy
import textwrap
from pathlib import Path

import pytest

import gradprobe
from gradprobe.analysis.findings.consequences import link_repetitions
from gradprobe.analysis.findings.finding import Finding

BACKWARD = """
        @staticmethod
        def backward(ctx, gradient):
            return gradient
    Own.apply(torch.ones(2, requires_grad=True)).sum().backward()
"""
FORWARD = """
    import torch
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
"""
PROGRAMS = {
    "an output of several": (
        {"GP632"},
        FORWARD
        + """
            y, half = x.exp(), x / 2
            ctx.kept = (y, 3)
            return y
    """
        + BACKWARD,
    ),
    "an output in setup_context": (
        {"GP632"},
        """
    import torch
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x.exp()
        @staticmethod
        def setup_context(ctx, inputs, output):
            y = output
            ctx.kept = y
    """
        + BACKWARD,
    ),
    "the mode in a helper's branch": (
        {"GP633"},
        FORWARD
        + """
            if x.numel() and not torch.is_grad_enabled():
                return x.clone()
            return x * 1
    """
        + BACKWARD,
    ),
    "right: sizes, inputs and intermediate results": (
        set(),
        FORWARD
        + """
            half = x / 2
            y = half.exp()
            ctx.shape, ctx.x, ctx.half = y.shape, x, half
            ctx.save_for_backward(y)
            return y
    """
        + BACKWARD,
    ),
    "right: the mode under enable_grad, and before apply": (
        set(),
        FORWARD
        + """
            with torch.enable_grad():
                inner = x.detach().requires_grad_()
                y = inner * 2 if torch.is_grad_enabled() else inner
            return y.detach()
    """
        + BACKWARD,
    ),
    "right: no Function": (
        set(),
        """
    import torch
    class Own:
        def forward(self, ctx, x):
            ctx.y = y = x.exp()
            return y if torch.is_grad_enabled() else None
    Own().forward(Own(), torch.ones(2, requires_grad=True)).sum().backward()
    """,
    ),
}


@pytest.mark.parametrize(("rules", "source"), PROGRAMS.values(), ids=PROGRAMS)
def test_functions(rules: set[str], source: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(source), encoding="utf-8")
    with gradprobe.record(level="ops") as recording:
        runpy.run_path(str(program))
    assert {rule for rule in recording.findings["rule"] if rule in ("GP632", "GP633")} == rules


def test_the_same_habit_in_one_file_is_one_edit() -> None:
    findings = [Finding("GP702", "x", "a.py", 1), Finding("GP702", "x", "a.py", 9), Finding("GP702", "x", "b.py", 5)]
    linked = link_repetitions([*findings, Finding("GP401", "x", "a.py", 3)])
    assert [[at.line for at in each.related] for each in linked] == [[9], [1], [], []]
