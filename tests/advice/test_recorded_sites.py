"""Recordings name the sites of a program and the script to run."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

import gradprobe
from gradprobe.advice.examination import examine
from gradprobe.errors import GradprobeError

pytestmark = pytest.mark.usefixtures("one_process")

MODEL = """\
import torch


def features(x):
    with torch.no_grad():
        return x * 2


def count(x):
    with torch.no_grad():
        return int((x > 0).sum())


def unused(x):
    with torch.no_grad():
        return x
"""
SCRIPT = """\
import torch
from model import count, features

w = torch.ones(2, requires_grad=True)
(w * features(torch.ones(2))).sum().backward()
print(count(w))
"""


def record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder / "model.py").write_text(MODEL)
    (folder / "main.py").write_text(SCRIPT)
    monkeypatch.setattr(sys, "argv", [str(folder / "main.py")])
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "model", raising=False)
    with gradprobe.record(folder / "run.gradprobe", level="ops"):
        runpy.run_path(str(folder / "main.py"), run_name="__main__").clear()
    del sys.modules["model"]
    return folder / "run.gradprobe"


def test_the_sites_that_ran_are_examined_by_running_the_script_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = record(tmp_path, monkeypatch)
    found = examine([], [recording], None, timeout_s=600, is_timed=False)
    assert [(Path(each.site.file).name, each.site.line, each.verdict, each.reason) for each in found.certificates] == [
        ("model.py", 5, "keep", "saved_for_backward"),
        ("model.py", 10, "swap", "none"),
    ]


def test_a_recording_of_a_script_that_is_gone_needs_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = record(tmp_path, monkeypatch)
    (tmp_path / "main.py").unlink()
    with pytest.raises(GradprobeError, match="--test"):
        examine([], [recording], None, timeout_s=600)
