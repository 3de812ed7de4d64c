"""Recording without features that other versions of PyTorch lack; each is removed in turn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gradprobe.__main__ import main
from gradprobe.capture.capabilities import OPTIONAL_TORCH_FEATURES, PYTHON_FEATURES, list_capabilities
from tests.commands.running import refused
from tests.warm_python import run as python

PROGRAM = """
import functools, sys
import torch

owner, name = sys.argv[1].rsplit(".", 1)
owner = functools.reduce(getattr, owner.split(".")[1:], torch)
if hasattr(owner, name):
    delattr(owner, name)

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


@pytest.mark.parametrize("name", OPTIONAL_TORCH_FEATURES)
def test_without_an_optional_part_of_pytorch_operators_are_recorded(name: str, tmp_path: Path) -> None:
    done = python("-W", "error::RuntimeWarning", "-c", PROGRAM, name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()


WITHOUT_SAVED = """
import json, torch

if hasattr(torch._C._autograd.SavedTensor, "data"):
    del torch._C._autograd.SavedTensor.data

import gradprobe

weight = torch.ones(4, requires_grad=True)
with gradprobe.record("saved.gradprobe", level="ops") as recording:
    with torch.enable_grad():
        kept = (weight * weight).exp()
for table in (recording.ops, recording.regions, recording.sites):
    assert table["saved_bytes"].isna().all() and table["graph_bytes"].isna().all()
assert json.loads(recording.to_json())["summary"]["operators"]["saved_bytes"] is None
assert "does not expose what its autograd nodes saved" in str(recording)
assert "saved for backward (" not in str(recording)
assert not [point for point in json.loads(recording.to_json())["ops"] if point["saved_bytes"] is not None]
seen = gradprobe.inspect(kept)
assert seen.unread and "at least 0 bytes saved" in str(seen)
"""


def test_saved_bytes_missing_not_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Saved bytes are missing, not zero, if PyTorch does not show saved tensors."""
    done = python("-c", WITHOUT_SAVED, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    told = refused(capsys, "check", str(tmp_path / "saved.gradprobe"), "--max-saved-bytes", "8")
    assert "cannot check --max-saved-bytes: the recorded torch does not expose saved tensors" in told


def test_saved_bytes_budget_without_feature(tmp_path: Path) -> None:
    """A budget for saved bytes fails if PyTorch does not show saved tensors."""
    (tmp_path / "conftest.py").write_text(
        "import torch\nif hasattr(torch._C._autograd.SavedTensor, 'data'):\n    del torch._C._autograd.SavedTensor.data\n"
    )
    (tmp_path / "test_budget.py").write_text(
        "import pytest, torch\n@pytest.mark.gradprobe(max_saved_bytes=8)\ndef test_saves_nothing():\n    torch.ones(2)\n"
    )
    done = python("-m", "pytest", "-p", "no:cacheprovider", cwd=tmp_path)
    assert "max_saved_bytes=8, but this PyTorch does not expose what its nodes saved" in done.stdout.decode()
    assert done.returncode == 1


def test_debug_shows_consequence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``gradprobe debug`` shows the consequence of a missing feature."""
    monkeypatch.delattr(torch, "accelerator", raising=False)
    main(["debug"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("torch.accelerator")]
    assert "no: device time is not measured" in line


def test_versions_page_is_complete() -> None:
    """The page on versions lists every feature with its consequence."""
    page = (Path(__file__).parents[2] / "docs" / "versions.md").read_text()
    for name, without in OPTIONAL_TORCH_FEATURES.items():
        assert f"| `{name}` | {without} |" in page
    assert all(f"| `{name}` of Python | {without} |" in page for name, (_, without) in PYTHON_FEATURES.items())
    assert {name for name, _, _ in list_capabilities()} >= {*OPTIONAL_TORCH_FEATURES, *PYTHON_FEATURES, "level ops"}
