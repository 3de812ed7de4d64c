"""Other versions of PyTorch lack some of what is used: each part is taken away in turn, and the program goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gradprobe
from gradprobe.__main__ import main
from gradprobe.capture.support import NEEDED_FOR_OPERATORS, OPTIONAL, capabilities

PROGRAM = """
import functools, sys
import torch

owner, name = sys.argv[1].rsplit(".", 1)
delattr(functools.reduce(getattr, owner.split(".")[1:], torch), name)

import gradprobe

with gradprobe.record(level="ops") as recording:
    layer = torch.nn.Linear(3, 3)
    with torch.no_grad():
        layer(torch.ones(1, 3))
    layer(torch.ones(1, 3)).sum().backward()
recording.to_json()
assert recording.ops["nodes"].sum() >= 2
assert list(recording.transitions["event"])[-2:] == ["enter", "exit"]
"""


@pytest.mark.parametrize("name", OPTIONAL)
def test_without_an_optional_part_of_pytorch_operators_are_recorded(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", PROGRAM, name], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NEEDED_FOR_OPERATORS)
def test_without_a_needed_part_level_ops_is_refused_by_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = torch.autograd if ".autograd." in name else torch._C
    monkeypatch.delattr(owner, name.rsplit(".", 1)[1])
    with pytest.raises(gradprobe.GradprobeError, match=f"{name}.*use level 'graph'"):
        gradprobe.record(level="ops")


def test_debug_says_what_follows_from_a_part_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(torch, "accelerator")
    main(["debug"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("torch.accelerator")]
    assert "no: device time is not measured" in line


def test_the_page_on_versions_lists_every_part() -> None:
    page = (Path(__file__).parents[2] / "docs" / "versions.md").read_text()
    for name, without in OPTIONAL.items():
        assert f"| `{name}` | {without} |" in page
    assert all(f"`{name}`" in page for name in NEEDED_FOR_OPERATORS)
    assert {name for name, _, _ in capabilities()} >= {*OPTIONAL, "level ops"}
