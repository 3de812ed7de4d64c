"""The order of findings: by severity, lost gradients, what their lines keep and build, and how often they occurred."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import gradprobe
from gradprobe.__main__ import main
from gradprobe.analysis.findings.finding import Finding
from gradprobe.analysis.findings.harm import sort_by_harm
from tests.report import samples


def test_errors_come_first_then_lost_gradients_then_what_occurred_often() -> None:
    found = [
        Finding("GP801", "", "serve.py", 20),
        Finding("GP204", "", "serve.py", 30, count=90),
        Finding("GP204", "", "serve.py", 20),
        Finding("GP511", "", "serve.py", 30),
        Finding("GP401", "", "serve.py", 30),
    ]
    ordered = [(each.rule, each.line) for each in sort_by_harm(found, samples.tables())]
    assert ordered == [("GP401", 30), ("GP511", 30), ("GP204", 30), ("GP204", 20), ("GP801", 20)]


def test_tables_checks_and_reports_have_the_same_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer, kept, history = torch.nn.Linear(3, 3), [], []
    context = torch.no_grad()
    with gradprobe.record(tmp_path / "r.gradprobe", level="ops") as recording:
        for _ in range(6):
            loss = layer(torch.ones(2, 3)).exp().sum()
            loss.backward()
            kept.append(loss)
            history.append(layer(torch.ones(2, 3)))
        with context, context:
            pass
        torch.set_grad_enabled(True)  # such blocks leave it disabled
    lines, rules = (list(map(str, recording.findings[name])) for name in ("line", "rule"))
    assert len(lines) > 2
    formats = (
        ["check", "--exit-zero"],
        ["check", "--exit-zero", "--format", "brief"],
        ["report"],
        ["report", "--format", "brief"],
    )
    for words in formats:
        main([*words, str(tmp_path / "r.gradprobe")])
        text = capsys.readouterr().out
        at = [text.find(rule) for rule in dict.fromkeys(rules)]
        assert at == sorted(at)
        assert -1 not in at
