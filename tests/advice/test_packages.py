"""Packages of several modules that pytest tests: what is advised and applied, and that all else stays as it is."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from gradprobe.advice.examination import examine

pytestmark = pytest.mark.usefixtures("one_process")

AVERAGE = '''\
# -*- coding: latin-1 -*-
"""Mittelwerte f\u00fcr alle."""
from torch import no_grad


class Average:
    """Moving average; gr\u00f6\u00dfer."""

    def __init__(self, model):
        self.shadow = [p.detach().clone() for p in model.parameters()]

    @no_grad()
    def update(self, model):
        for s, p in zip(self.shadow, model.parameters()):
            s.lerp_(p, 0.1)

    def distance(self, model):
        with no_grad():   # f\u00fcr den Bericht
            return sum(float((s - p).abs().sum()) for s, p in zip(self.shadow, model.parameters()))
'''
TRAIN = '''\
"""Training."""
from __future__ import annotations
import torch
from torch import nn, no_grad as frozen
from torch.nn import functional as F
from .average import Average
from .data import batches
from .util import timed


def fit(model: nn.Module, epochs: int = 1) -> list[float]:
    average, losses = Average(model), []
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(epochs):
        for x, y in batches():
            loss = F.mse_loss(model(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            average.update(model)
        losses.append(evaluate(model))
    return losses


@timed("eval")
@frozen()  # not traced
def evaluate(model) -> float:
    total = 0.0
    for x, y in batches():
        total += F.mse_loss(model(x), y).item()
    return total


def targets(model):
    with \\
        open("/dev/null") as sink, \\
        frozen():   # the teacher
        return [model(x) for x, _ in batches()]


def distill(student, teacher):
    loss = sum(F.mse_loss(student(x), t) for (x, _), t in zip(batches(), targets(teacher)))
    loss.backward()
    return loss.item()
'''
DATA = '''\
"""Data."""
import torch

\x0c
def batches():
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 3, generator=g), torch.randn(4, 1, generator=g)) for _ in range(2)]


@torch.no_grad()
def count(x):
    return (x > 0).sum().item()'''
UTIL = """\
import functools


def timed(name):
    def wrap(function):
        @functools.wraps(function)
        def inner(*a, **k):
            return function(*a, **k)
        return inner
    return wrap
"""
CONFTEST = """\
import pytest
import torch
from lab.train import fit


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 1)


@pytest.fixture(scope="session")
def trained():
    model = torch.nn.Linear(3, 1)
    fit(model)
    return model
"""
TESTS = """\
import pytest
import torch
from lab import Average, evaluate, fit
from lab.data import count
from lab.train import distill


@pytest.mark.parametrize("epochs", [1, 2])
def test_fit(model, epochs):
    assert len(fit(model, epochs)) == epochs


def test_eval(trained):
    assert evaluate(trained) > 0


def test_average(model):
    average = Average(model)
    average.update(model)
    assert average.distance(model) == 0


def test_distill(model, trained):
    assert distill(model, trained) >= 0
    assert count(torch.ones(3)) == 3
"""


def write_package(folder: Path, below: str) -> dict[Path, bytes]:
    """Write a package with tests, flat or below a folder of sources, and return its files."""
    root = folder / below
    contents = {
        root / "lab" / "__init__.py": b"from .train import fit, evaluate\nfrom lab.average import Average\n",
        root / "lab" / "average.py": AVERAGE.replace("\n", "\r\n").encode("latin-1"),
        root / "lab" / "train.py": TRAIN.encode(),
        root / "lab" / "data" / "__init__.py": codecs.BOM_UTF8 + DATA.encode(),
        root / "lab" / "util.py": UTIL.encode(),
        folder / "tests" / "conftest.py": CONFTEST.encode(),
        folder / "tests" / "test_train.py": TESTS.encode(),
        folder / "pytest.ini": f"[pytest]\npythonpath = {below}\ntestpaths = tests\n".encode(),
    }
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return contents


def test_edits_of_a_package_leave_all_other_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_package(tmp_path, "src")
    monkeypatch.chdir(tmp_path)
    found = examine([Path("src")], [], ["pytest", "-q"], timeout_s=600, is_timed=False)
    places = {
        (Path(each.site.file).name, each.site.line): (each.verdict, each.reason, each.message)
        for each in found.certificates
    }
    assert {place: verdict[:2] for place, verdict in places.items()} == {
        ("average.py", 12): ("swap", "none"),
        ("average.py", 18): ("swap", "none"),
        ("train.py", 26): ("swap", "none"),
        ("train.py", 37): ("keep", "saved_for_backward"),
        ("__init__.py", 10): ("swap", "none"),
    }, places
    files = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert files == set(before), "runs leave nothing behind"
    assert {path: path.read_bytes() for path in before} == before
    assert found.apply() == []
    root = tmp_path / "src" / "lab"
    changed = {path.relative_to(root).as_posix() for path in before if path.read_bytes() != before[path]}
    assert changed == {"average.py", "train.py", "data/__init__.py"}
    average = before[root / "average.py"].replace(b"no_grad", b"inference_mode")
    assert (root / "average.py").read_bytes() == average
    train = before[root / "train.py"].replace(b"@frozen()  # not", b"@torch.inference_mode()  # not")
    assert (root / "train.py").read_bytes() == train
    data = before[root / "data" / "__init__.py"].replace(b"@torch.no_grad()", b"@torch.inference_mode()")
    assert (root / "data" / "__init__.py").read_bytes() == data
    found.comment()
    assert "# gradprobe: no_grad is needed: saved for backward" in (root / "train.py").read_text()
    compile((root / "train.py").read_text(), "train.py", "exec")


def test_an_edit_that_fails_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_package(tmp_path, ".")
    monkeypatch.chdir(tmp_path)
    found = examine([Path("lab/average.py"), Path("lab/data")], [], ["pytest", "-q"], timeout_s=600, is_timed=False)
    assert [each.verdict for each in found.certificates] == ["swap"] * 3
    test = tmp_path / "tests" / "test_train.py"
    test.write_text(
        TESTS + "\n\ndef test_of_the_text():\n    assert '@torch.no_grad' in open('lab/data/__init__.py').read()\n"
    )
    data = tmp_path / "lab" / "data" / "__init__.py"
    assert found.apply() == [f"{data}:10"]
    assert data.read_bytes() == before[data]
    average = tmp_path / "lab" / "average.py"
    assert average.read_bytes() == before[average].replace(b"no_grad", b"inference_mode")
