"""The flow ledger of the observer: leaves and edges, from several threads, over several recordings."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

import gradprobe
from gradprobe.analysis.flow_graph import FlowGraph, LeafUse
from gradprobe.recording.flow import CARRIED, CUT_BY_DATA, CUT_BY_DETACH, CUT_BY_NO_GRAD, FlowLedger, read_flow


def ledger_of(recording: gradprobe.Recording) -> FlowLedger:
    notes = recording._tables.contents[0].notes
    assert not [note for note in notes if note[0] == "fault"]
    return read_flow(notes)


def named_uses(ledger: FlowLedger) -> list[LeafUse]:
    return [use for use in FlowGraph(ledger).uses.values() if use.leaf.name]


def test_steps_and_passes_are_counted_by_parameter() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradprobe.record(level="ops") as recording:
        for number in range(4):
            optimizer.zero_grad()
            out = model[0](torch.ones(1, 2))
            (model[1](out) if number else out).sum().backward()
            optimizer.step()
    uses = named_uses(ledger_of(recording))
    assert len(uses) == 4
    first, second = (next(use for use in uses if use.leaf.shape == shape) for shape in ((2, 2), (1, 2)))
    assert (first.backwards, first.leaf.optimizer, first.leaf.is_parameter) == (4, "SGD", True)
    assert second.backwards == 3
    assert (first.steps_without_grad, second.steps_without_grad > 0) == (0, True)
    assert second.steps_with_grad > 0


def test_edges_say_why_gradient_could_not_follow() -> None:
    weight = nn.Parameter(torch.ones(3))
    with gradprobe.record(level="ops") as recording:
        (weight * 2).exp()
        weight.detach().exp()
        weight.data.exp()
        with torch.no_grad():
            weight.exp()
    ledger = ledger_of(recording)
    ((leaf, _),) = ledger.leaves.items()
    fates = sorted(
        (ledger.sites[target].op, [passage for passage, count in enumerate(counts) if count])
        for (source, target), counts in ledger.edges.items()
        if source == leaf
    )
    assert fates == [
        ("aten.detach", [CUT_BY_DETACH]),
        ("aten.exp", [CUT_BY_NO_GRAD]),
        ("aten.exp", [CUT_BY_DATA]),
        ("aten.mul.Tensor", [CARRIED]),
    ]


def test_only_operators_of_pytorch_that_take_a_shape_take_no_value() -> None:
    """The names of others say nothing: a library may call its own operator as it likes."""
    weight = nn.Parameter(torch.ones(3))
    with torch.library._scoped_library("gradprobe_flow", "FRAGMENT") as library:
        library.define("new_gelu(Tensor x) -> Tensor")
        library.define("soft_like(Tensor x) -> Tensor")
        library.impl("new_gelu", lambda x: x * 2, "CompositeImplicitAutograd")
        library.impl("soft_like", lambda x: x * 3, "CompositeImplicitAutograd")
        with gradprobe.record(level="ops") as recording:
            torch.ops.gradprobe_flow.new_gelu(weight)
            torch.ops.gradprobe_flow.soft_like(weight)
            torch.zeros_like(weight)
            weight.new_full((2,), 1.0)
            weight.type_as(weight)
    ledger = ledger_of(recording)
    ((leaf, _),) = ledger.leaves.items()
    taking = {ledger.sites[target].op for source, target in ledger.edges if source == leaf}
    assert taking == {"gradprobe_flow.new_gelu", "gradprobe_flow.soft_like", "aten.type_as"}


def test_threads_that_use_one_parameter_share_its_leaf_and_its_edges() -> None:
    layer = nn.Linear(2, 2)

    def work(_: int) -> torch.Tensor:
        return layer(torch.ones(1, 2))

    with gradprobe.record(level="ops") as recording:
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(work, range(40)))
        torch.stack(results).sum().backward()
    ledger = ledger_of(recording)
    shapes = sorted(leaf.shape for leaf in ledger.leaves.values() if leaf.name)
    assert shapes == [(2,), (2, 2)]
    (weight,) = (number for number, leaf in ledger.leaves.items() if leaf.shape == (2, 2))
    carried = {
        ledger.sites[target].op: counts[CARRIED]
        for (source, target), counts in ledger.edges.items()
        if source == weight
    }
    assert carried == {"aten.linear": 40, "backward": 1}


def test_a_backward_in_another_thread_finds_the_leaves() -> None:
    weight = nn.Parameter(torch.ones(2))
    with gradprobe.record(level="ops") as recording:
        losses = [(weight * 2).sum() for _ in range(3)]
        workers = [threading.Thread(target=loss.backward) for loss in losses]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    ledger = ledger_of(recording)
    (use,) = FlowGraph(ledger).uses.values()
    assert use.backwards == 3
    paths = ledger.paths.values()
    assert (sum(p.built for p in paths), sum(p.reached for p in paths)) == (6, 6)


def test_numbers_begin_again_with_each_recording() -> None:
    weight = nn.Parameter(torch.ones(2))
    for _ in range(3):
        with gradprobe.record(level="ops") as recording:
            (weight * 2).sum().backward()
        ledger = ledger_of(recording)
        assert len(ledger.leaves) == 1
        assert {site.op for site in ledger.sites.values()} == {
            "aten.mul.Tensor",
            "aten.sum",
            "aten.ones_like",
            "backward",
        }
        assert set(ledger.sites) | set(ledger.leaves) == set(range(1, 6))


def test_a_line_that_makes_leaves_for_ever_gets_a_bounded_number_of_them() -> None:
    with gradprobe.record(level="ops") as recording:
        for _ in range(5000):
            torch.ones(1, requires_grad=True) * 2
    ledger = ledger_of(recording)
    assert 0 < len(ledger.leaves) <= 4096
