"""The parts of composite operators have rows of their own where asked for, and nothing is counted twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradprobe
from tests.commands.running import refused, warm_gradprobe

COUNTS = ["nodes", "saved_bytes", "version_bumps", "counters_created", "tracked_views", "untracked_views"]
Sums = dict[str, dict[str, int]]


def sums(program: Callable[[], Any], *, parts: bool) -> Sums:
    """Return the counts of each operator that ``program`` runs."""
    with gradprobe.record(level="ops", composite_parts=parts) as recording:
        program()
    assert [note for note in recording._tables.contents[0].notes if note[0] == "fault"] == []
    ops = recording.ops
    found = ops.groupby("op")[[*COUNTS, "inference_outputs"]].sum()
    return {str(op): {name: int(row[name]) for name in found} for op, row in found.iterrows()}


def nodes(found: Sums) -> dict[str, int]:
    return {op: row["nodes"] for op, row in found.items() if row["nodes"]}


def net() -> Callable[[], torch.Tensor]:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 3)
    return lambda: model(x)  # type: ignore[no-any-return]


def test_parts_have_what_they_did_and_the_composite_operator_nothing() -> None:
    forward = net()
    whole, parts = sums(forward, parts=False), sums(forward, parts=True)

    assert nodes(whole) == {"aten.linear": 4, "aten.layer_norm": 1, "aten.relu": 1}
    assert nodes(parts) == {"aten.t": 2, "aten.addmm": 2, "aten.native_layer_norm": 1, "aten.relu": 1}
    assert set(parts["aten.linear"].values()) == {0}
    assert parts["aten.t"]["tracked_views"] == 2
    assert sum(row["saved_bytes"] for row in parts.values()) == sum(row["saved_bytes"] for row in whole.values())


def test_a_composite_operator_without_parts_keeps_its_counts() -> None:
    """``dropout`` in evaluation and ``to`` return what they were given; ``reshape`` runs ``view``."""
    x = torch.ones(2, 2, requires_grad=True)

    def program() -> None:
        nn.functional.dropout(x, training=False)
        x.to(torch.float32)
        x.reshape(4)

    assert nodes(sums(program, parts=True)) == {"aten.view": 1}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_grad_no_part_has_a_node(mode: Callable[[], Any]) -> None:
    forward = net()

    def program() -> None:
        with mode():
            forward()

    parts = sums(program, parts=True)
    assert "aten.addmm" in parts
    assert nodes(parts) == {}
    assert sum(row["inference_outputs"] for row in parts.values()) == (0 if mode is torch.no_grad else 6)


def autocast(forward: Callable[[], torch.Tensor]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        nn.functional.cross_entropy(forward(), torch.tensor([0, 1])).backward()


def transforms(forward: Callable[[], torch.Tensor]) -> None:
    layer = nn.Linear(3, 2)
    x = torch.randn(4, 2, 3)
    torch.func.vmap(layer)(x)
    torch.func.vmap(torch.func.grad(lambda row: layer(row).sum()))(x)
    torch.func.jvp(layer, (x,), (x,))


def einsum_and_convolution(forward: Callable[[], torch.Tensor]) -> None:
    x = torch.randn(1, 2, 6, 6, requires_grad=True)
    y = nn.functional.conv2d(x, torch.randn(3, 2, 3, 3), padding="same")
    torch.einsum("bchw,bdhw->cd", y, x).norm().backward()


def recurrent(forward: Callable[[], torch.Tensor]) -> None:
    nn.LSTM(3, 4, 2, bidirectional=True)(torch.randn(5, 2, 3))[0].sum().backward()


@pytest.mark.parametrize("program", [autocast, transforms, einsum_and_convolution, recurrent])
def test_all_nodes_are_counted_once(program: Callable[[Callable[[], torch.Tensor]], None]) -> None:
    forward, counted = net(), torch.autograd._get_sequence_nr  # type: ignore[attr-defined]
    program(forward)  # the first backward pass creates gradients, others add to them
    for parts in (False, True):
        before = counted()
        found = sums(lambda: program(forward), parts=parts)
        assert sum(nodes(found).values()) == counted() - before


class Answers(torch.Tensor):
    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch.utils._mode_utils.no_dispatch():
            return func(*args, **(kwargs or {})).abs()


def test_what_a_subclass_runs_is_no_part() -> None:
    x = torch.Tensor._make_subclass(Answers, torch.ones(2, 3))
    weight = torch.ones(4, 3)

    def program() -> None:
        with torch.inference_mode():
            nn.functional.linear(x, weight)

    assert "aten.abs" not in sums(program, parts=True)


def test_the_option_ends_with_its_recording_and_is_told_in_the_report() -> None:
    forward = net()
    with gradprobe.record(level="ops") as outer:
        with gradprobe.record(level="ops", composite_parts=True) as inner:
            forward()
        assert "aten.addmm" in set(inner.ops["op"])
        before = len(outer.ops[outer.ops["op"] == "aten.addmm"])
        forward()
    assert len(outer.ops[outer.ops["op"] == "aten.addmm"]) == before
    assert "parts of composite operators are counted" in str(inner)
    assert "parts of composite operators are counted" not in str(outer)


def test_the_command_line_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.py").write_text("import torch\ntorch.nn.functional.linear(torch.ones(2, 3), torch.ones(4, 3))\n")
    words = ["run", "--level", "ops", "--composite-parts", "-o", "r.gradprobe", "s.py"]
    ended = warm_gradprobe(*words, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr.decode()
    assert "aten.matmul" in set(gradprobe.load(tmp_path / "r.gradprobe").ops["op"])
    assert "add --level ops" in refused(capsys, "run", "--level", "graph", "--composite-parts", str(tmp_path / "s.py"))


def test_below_level_ops_it_is_refused() -> None:
    with pytest.raises(gradprobe.GradprobeError, match="composite_parts must be False below level 'ops'"):
        gradprobe.record(composite_parts=True)
