"""The verdict on a program agrees with what happens if its managers are exchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gradprobe.advice.advice_document import build_document, to_json
from gradprobe.advice.examination import Examination, examine
from gradprobe.errors import GradprobeError
from gradprobe.report.formats import markdown

PROGRAM = """\
import torch

torch.manual_seed(0)
net = torch.nn.Linear(3, 2)
x = torch.randn(4, 3)


class Meter:
    def start(self):
        with torch.no_grad():
            self.mean = x.mean(0)

    def add(self):
        y = x.mean(0)
        with torch.no_grad():
            self.mean.lerp_(y, 0.5)


def target():
    with torch.no_grad():
        return net(x).softmax(-1)


def train():
    try:
        (net(x) * target()).sum().backward()
    except RuntimeError:
        print("caught")


def features():
    with torch.no_grad():
        return net(x)


def tune(head):
    return head(features()).sum()


meter = Meter()
meter.start()
meter.add()
train()
print(features().shape)
"""
INFERENCE = """\
import torch

table = None


def look(x):
    global table
    if table is None:
        table = torch.arange(3.0)
    return x * table


with torch.inference_mode():
    look(torch.ones(3))
w = torch.ones(3, requires_grad=True)
look(w).sum().backward()
print(w.grad)
"""


pytestmark = pytest.mark.usefixtures("one_process")


def run(text: str, folder: Path) -> Examination:
    script = folder / "program.py"
    script.write_text(text)
    return examine([script], [], None, timeout_s=120, is_timed=False)


def test_each_site_of_a_program(tmp_path: Path) -> None:
    found = run(PROGRAM, tmp_path)
    assert [(each.site.line, each.verdict, each.reason, each.together) for each in found.certificates] == [
        (10, "swap", "none", (15,)),
        (15, "swap", "none", ()),
        (20, "keep", "saved_for_backward", ()),
        (32, "unproven", "not_run", ()),
    ]
    kept, unproven = found.certificates[2], found.certificates[3]
    assert {(each.line, each.role.split(":")[0].split(",")[0]) for each in kept.proof} >= {
        (26, "raises"),
        (21, "created here by aten.softmax.int"),
    }
    assert 37 in [each.line for each in unproven.proof]
    assert (tmp_path / "program.py").read_text() == PROGRAM
    rows = json.loads(to_json(found.certificates))
    assert set(rows[0]) >= {"file", "line", "manager", "verdict", "reason", "proof", "gain", "patch", "with"}
    assert rows[0]["with"] == [15]
    patch = found.make_patch()
    assert [line for line in patch.decode().splitlines() if line.startswith(("+ ", "+@"))] == [
        "+        with torch.inference_mode():",
        "+        with torch.inference_mode():",
    ]
    assert "| unproven" in markdown.render_document(build_document(found.certificates, found.remarks))
    assert found.apply() == []
    found.comment()
    text = (tmp_path / "program.py").read_text()
    assert text.count("torch.inference_mode()") == 2
    assert "    # gradprobe: no_grad is needed: saved for backward, see line 21, 26\n    with torch.no_grad():" in text


def test_inference_mode_that_breaks_the_program_has_the_smaller_edit(tmp_path: Path) -> None:
    (found,) = run(INFERENCE, tmp_path).certificates
    assert (found.verdict, found.reason) == ("keep", "saved_for_backward")
    assert "on line 9" in found.message


def test_a_program_that_does_not_repeat_itself_proves_nothing(tmp_path: Path) -> None:
    text = "import time, torch\nx = torch.tensor(time.perf_counter_ns())\nwith torch.no_grad():\n    print(0 * x)\n"
    (found,) = run(text, tmp_path).certificates
    assert (found.verdict, found.reason) == ("unproven", "not_repeatable")


LIBRARY = """\
import torch


@torch.no_grad()
def accuracy(logits, labels):
    return (logits.argmax(1) == labels).float().mean().item()


@torch.no_grad()
def embed(x):
    return x * 2


def distance(a, b):
    with torch.no_grad():
        return float((a - b).norm())
"""
TESTS = """\
import torch
from lib import accuracy, distance, embed


def test_all():
    x = torch.eye(3)
    assert accuracy(x, torch.arange(3)) == 1.0
    assert embed(x).sum() == 6
    assert distance(x, x) == 0.0
"""


def test_a_library_is_tested_by_pytest_and_what_it_returns_to_others_is_unproven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib.py").write_text(LIBRARY)
    (tmp_path / "test_lib.py").write_text(TESTS)
    monkeypatch.chdir(tmp_path)
    found = examine([Path("lib.py")], [], ["pytest", "-q"], timeout_s=120, is_timed=False)
    assert [(each.site.line, each.verdict, each.reason) for each in found.certificates] == [
        (4, "swap", "none"),
        (9, "unproven", "escapes_unknown"),
        (15, "swap", "none"),
    ]
    assert [(each.line, each.role) for each in found.certificates[1].proof][:1] == [
        (11, "returns a tensor of the block to any caller of embed")
    ]
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("__")) == [
        "lib.py",
        "test_lib.py",
    ]


def test_nothing_to_run_is_said(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("import torch\nwith torch.no_grad():\n    pass\n")
    with pytest.raises(GradprobeError, match="--test"):
        examine([tmp_path], [], None, timeout_s=1)
