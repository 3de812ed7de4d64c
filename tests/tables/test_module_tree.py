"""The tree of modules adds up to the table of operators."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from torch import nn

import gradprobe

NUMBERS = ("count", "nodes", "saved_bytes")


class Block(nn.Module):
    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.shared = shared
        self.heads = {"a.b": nn.Linear(4, 4)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.heads["a.b"](self.inner(x) * 2 + self.shared(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        shared = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(Block(shared) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x.sum()


@pytest.fixture(scope="module")
def recording() -> gradprobe.Recording:
    student, teacher = Net(), Net()
    with gradprobe.record(level="ops") as recorded:
        for _ in range(2):
            x = torch.randn(2, 4)
            with torch.no_grad():
                target = teacher(x)
            (student(x) - target).backward()
    return recorded


def test_own_values_are_those_of_the_flat_table(recording: gradprobe.Recording) -> None:
    flat = recording.ops.groupby("module")[list(NUMBERS)].sum()
    for row in recording.modules.to_dict("records"):
        own = flat.loc[row["module"]] if row["module"] in flat.index else dict.fromkeys(NUMBERS, 0)
        assert {name: row[f"self_{name}"] for name in NUMBERS} == {name: own[name] for name in NUMBERS}, row["module"]
    assert set(flat.index) <= set(recording.modules["module"])


def test_totals_are_the_sums_of_what_is_inside(recording: gradprobe.Recording) -> None:
    modules = recording.modules
    for row in modules.to_dict("records"):
        children = modules[(modules["parent"] == row["module"]) & (modules["depth"] == row["depth"] + 1)]
        children = children[children["parent"] != ""]
        for name in NUMBERS:
            assert row[name] == row[f"self_{name}"] + children[name].sum(), (row["module"], name)
    outermost = modules[modules["depth"] == 0]
    assert outermost[list(NUMBERS)].sum().to_dict() == recording.ops[list(NUMBERS)].sum().to_dict()


def test_a_module_comes_before_those_in_it(recording: gradprobe.Recording) -> None:
    seen = {""}
    for row in recording.modules.to_dict("records"):
        assert row["parent"] in seen
        assert row["module"].endswith(row["name"])
        seen.add(row["module"])


def test_two_models_of_one_class_have_rows_of_their_own(recording: gradprobe.Recording) -> None:
    modules = recording.modules.set_index("module")
    assert set(modules[modules["depth"] == 0].index) == {"", "student", "teacher"}
    assert set(modules.loc[["student", "teacher"], "root_class"]) == {"Net"}
    assert modules.loc["teacher", "nodes"] == 0 < modules.loc["student", "nodes"]
    inner = modules.loc[["student", "teacher"]]
    assert inner[["parameters", "reached_parameters"]].to_numpy().tolist() == [[14, 14], [14, 0]]
    assert "student.blocks.1.heads['a.b']" in modules.index


def test_the_json_report_has_the_rows(recording: gradprobe.Recording) -> None:
    rows = pd.DataFrame(json.loads(recording.to_json())["modules"])
    assert rows["module"].tolist() == recording.modules["module"].tolist()
    assert rows["saved_bytes"].tolist() == recording.modules["saved_bytes"].tolist()


def test_below_level_ops_there_are_none() -> None:
    with gradprobe.record() as recorded:
        nn.Linear(1, 1)(torch.ones(1, 1))
    assert recorded.modules.empty
