"""The verdict on a program agrees with what happens if its managers are exchanged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradprobe.advice import program_runs
from gradprobe.advice.advice_document import build_document, to_json
from gradprobe.advice.examination import Examination, examine
from gradprobe.errors import GradprobeError
from gradprobe.report.formats import markdown

PROGRAM = """\
import torch

torch.manual_seed(0)
net = torch.nn.Linear(3, 2)
x = torch.randn(4, 3)


@torch.no_grad()
def accuracy():
    return (net(x).argmax(1) == 0).sum().item()


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


def slopes():
    with torch.no_grad():
        return torch.autograd.functional.jvp(torch.sin, x, torch.ones_like(x))[1].sum().item()


def features():
    with torch.no_grad():
        return net(x)


def tune(head):
    return head(features()).sum()


meter = Meter()
meter.start()
meter.add()
train()
print(accuracy(), slopes(), features().shape)
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


@pytest.fixture(autouse=True, scope="module")
def _one_process() -> Iterator[None]:
    """Fork all programs from one process: each import of torch takes longer than the runs."""
    servers: list[program_runs._Server] = []

    class Shared(program_runs._Server):
        def __new__(cls, *_: object) -> Shared:
            return servers[0] if servers else super().__new__(cls)  # type: ignore[return-value]

        def __init__(self, timeout_s: float, preload: object) -> None:
            if not servers:
                super().__init__(timeout_s, [])
                servers.append(self)

        def close(self) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program_runs, "_Server", Shared)
        yield
    for server in servers:
        super(Shared, server).close()  # type: ignore[misc]


def run(text: str, folder: Path) -> Examination:
    script = folder / "program.py"
    script.write_text(text)
    return examine([script], [], None, timeout_s=120, is_timed=False)


def test_each_site_of_a_program(tmp_path: Path) -> None:
    found = run(PROGRAM, tmp_path)
    assert [(each.site.line, each.verdict, each.reason, each.together) for each in found.certificates] == [
        (8, "swap", "none", ()),
        (15, "swap", "none", (20,)),
        (20, "swap", "none", ()),
        (25, "keep", "saved_for_backward", ()),
        (37, "keep", "functional", ()),
        (42, "unproven", "not_run", ()),
    ]
    kept, unproven = found.certificates[3], found.certificates[5]
    assert {(each.line, each.role.split(":")[0].split(",")[0]) for each in kept.proof} >= {
        (31, "raises"),
        (26, "created here by aten.softmax.int"),
    }
    assert 47 in [each.line for each in unproven.proof]
    assert (tmp_path / "program.py").read_text() == PROGRAM
    rows = json.loads(to_json(found.certificates))
    assert set(rows[0]) >= {"file", "line", "manager", "verdict", "reason", "proof", "gain", "patch", "with"}
    assert rows[1]["with"] == [20]
    patch = found.make_patch()
    assert [line for line in patch.splitlines() if line.startswith(("+ ", "+@"))] == [
        "+@torch.inference_mode()",
        "+        with torch.inference_mode():",
        "+        with torch.inference_mode():",
    ]
    assert "| unproven" in markdown.render_document(build_document(found.certificates, found.remarks))
    assert found.apply() == []
    found.comment()
    text = (tmp_path / "program.py").read_text()
    assert text.count("torch.inference_mode()") == 3
    assert "    # gradprobe: no_grad is needed: saved for backward, see line 26, 31\n    with torch.no_grad():" in text


def test_inference_mode_that_breaks_the_program_has_the_smaller_edit(tmp_path: Path) -> None:
    (found,) = run(INFERENCE, tmp_path).certificates
    assert (found.verdict, found.reason) == ("keep", "saved_for_backward")
    assert "on line 9" in found.message


def test_a_program_that_does_not_repeat_itself_proves_nothing(tmp_path: Path) -> None:
    text = "import time, torch\nx = torch.tensor(time.perf_counter_ns())\nwith torch.no_grad():\n    print(0 * x)\n"
    (found,) = run(text, tmp_path).certificates
    assert (found.verdict, found.reason) == ("unproven", "not_repeatable")


def test_nothing_to_run_is_said(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("import torch\nwith torch.no_grad():\n    pass\n")
    with pytest.raises(GradprobeError, match="--test"):
        examine([tmp_path], [], None, timeout_s=1)
