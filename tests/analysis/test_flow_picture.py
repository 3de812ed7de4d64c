"""The picture of the flow has every cut of the ledger, whatever is folded, and few boxes."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import nn

import gradprobe
from gradprobe.analysis.flow_boxes import BACKWARD, BoxKind, FlowBox, FlowView, Gradient
from gradprobe.analysis.flow_depths import MAX_BOXES
from gradprobe.analysis.flow_graph import FlowGraph
from gradprobe.analysis.flow_picture import MAX_VIEWS, FlowPicture
from gradprobe.recording.flow import CUTS, PASSAGES, FlowLeaf, FlowLedger, FlowSite

CUT_NAMES = [PASSAGES[passage] for passage in CUTS]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.middle, self.head, self.side = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            x = self.encoder(x)
        hidden = self.middle(x)
        return self.head(hidden), self.side(hidden.detach())


def train(model: nn.Module) -> gradprobe.Recording:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradprobe.record(level="ops") as recorded:
        for _ in range(2):
            out, side = model(torch.ones(2, 4))
            loss = out.sum() + side.sum() + (out > 0).float().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.detach().numpy()
    return recorded


@pytest.fixture(scope="module")
def recording() -> gradprobe.Recording:
    return train(Net())


def picture(recording: gradprobe.Recording) -> FlowPicture:
    return FlowPicture(FlowGraph(recording._tables.processes[0].flow))


def count_cuts(flow: pd.DataFrame) -> int:
    return int(flow[flow["passage"].isin(CUT_NAMES)]["count"].sum())


def find(view: FlowView, *steps: str) -> FlowBox:
    return next(box for box in view.boxes if box.group == steps)


def test_every_cut_of_the_table_is_in_each_view(recording: gradprobe.Recording) -> None:
    views = picture(recording).build_views()
    assert [view.depth for view in views] == [1, 2]
    assert {view.cuts for view in views} == {count_cuts(recording.flow)}


def test_edges_say_what_becomes_of_gradient(recording: gradprobe.Recording) -> None:
    view = picture(recording).build_views()[-1]
    encoder, middle, side = (find(view, "Net", name) for name in ("encoder", "middle", "side"))
    assert (encoder.parameters, encoder.reached, encoder.has_gradient) == (2, 0, False)
    assert [cut.reason for cut in encoder.inside[Gradient.CUT]] == ["no_grad"]
    assert (middle.parameters, middle.reached, middle.has_gradient) == (2, 2, True)
    assert side.has_gradient
    ends = {(view.boxes[e.source].group[-1], view.boxes[e.target].group[-1]): e.gradient for e in view.edges}
    assert ends["encoder", "middle"] is Gradient.NOT_NEEDED
    assert ends["middle", "head"] is Gradient.CARRIED
    cut_edges = [edge for edge in view.edges if edge.gradient is Gradient.CUT]
    cuts = [(view.boxes[edge.source].group[-1], cut.reason) for edge in cut_edges for cut in edge.cuts]
    assert sorted(cuts) == [("head", "not_differentiable"), ("middle", "detach")]
    assert [box.kind for box in view.boxes if box.group[0] == BACKWARD] == [BoxKind.BACKWARD]


def test_cuts_that_no_backward_pass_follows_are_aside(recording: gradprobe.Recording) -> None:
    view = picture(recording).build_views()[0]
    assert {cut.op for cut in view.left_out} >= {"aten.detach"}
    assert all(cut.line for cut in view.left_out)


def test_a_mode_has_the_line_that_set_it(recording: gradprobe.Recording) -> None:
    shown = FlowPicture(FlowGraph(recording._tables.processes[0].flow), lambda site: ("set.py", 7)).build_views()[-1]
    (cut,) = find(shown, "Net", "encoder").inside[Gradient.CUT]
    assert (cut.mode_file, cut.mode_line) == ("set.py", 7)


def test_what_also_runs_with_gradient_is_not_cut() -> None:
    model = nn.Linear(2, 1)
    with gradprobe.record(level="ops") as recorded:
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                out = model(torch.ones(1, 2)).sum()
            if grad:
                out.backward()
    (view,) = picture(recorded).build_views()
    assert view.cuts == count_cuts(recorded.flow) > 0
    assert not any(box.inside.get(Gradient.CUT) for box in view.boxes)
    assert Gradient.CUT not in {edge.gradient for edge in view.edges}


class Deep(nn.Module):
    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(Deep(depth - 1, width) if depth else nn.Linear(4, 4) for _ in range(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part(x).tanh()
            x = x + (x > 0)
            x = x * 2
        return x


def test_a_large_model_is_folded() -> None:
    model = Deep(2, 4)
    with gradprobe.record(level="ops") as recorded:
        model(torch.ones(2, 4)).sum().backward()
    views = picture(recorded).build_views()
    assert 1 < len(views) <= MAX_VIEWS
    assert all(len(view.boxes) <= MAX_BOXES for view in views)
    assert {view.cuts for view in views} == {count_cuts(recorded.flow)}
    assert views[-1].folded
    assert all(number > 1 for number in views[-1].folded.values())


def chain(modules: list[str], function: str = "f") -> FlowLedger:
    ledger = FlowLedger()
    for number, module in enumerate(modules, 1):
        ledger.sites[number] = FlowSite("a.py", number, function, "aten.mul", module)
        if number > 1:
            ledger.edges[number - 1, number] = [1, 0, 1, 0, 0, 0, 0, 0]
    end = len(modules) + 1
    ledger.sites[end] = FlowSite("a.py", end, function, "backward", "")
    ledger.edges[end - 1, end] = [1] + [0] * 7
    return ledger


@pytest.mark.parametrize(
    "ledger",
    [
        chain([f"Net{number}" for number in range(100)]),
        chain([""] * 100),
        chain([f"Net.part{number}" for number in range(100)]),
        chain([".".join(["Net", *map(str, range(number % 50))]) for number in range(100)]),
    ],
    ids=["models", "lines", "parts", "depth"],
)
def test_there_are_never_many_boxes_and_no_cut_is_lost(ledger: FlowLedger) -> None:
    views = FlowPicture(FlowGraph(ledger)).build_views()
    assert 1 <= len(views) <= MAX_VIEWS
    for view in views:
        assert len(view.boxes) <= MAX_BOXES
        assert view.cuts == 99


def test_of_many_equal_boxes_the_same_ones_are_drawn_in_every_process() -> None:
    names = [f"Net{number}" for number in range(100)]
    (view,) = FlowPicture(FlowGraph(chain(names))).build_views()
    drawn = {box.group[0] for box in view.boxes if box.group[0].startswith("Net")}
    assert 30 < len(drawn) < MAX_BOXES
    assert drawn <= set(sorted(names)[:MAX_BOXES])


def test_tensors_of_unknown_origin_and_without_a_name_have_boxes() -> None:
    ledger = chain(["Net", "Net"])
    ledger.leaves[9] = FlowLeaf(0, "", (3,))
    ledger.edges[9, 1] = [1] + [0] * 7
    ledger.edges[0, 2] = [1] + [0] * 7
    (view,) = FlowPicture(FlowGraph(ledger)).build_views()
    assert sum(box.kind is BoxKind.TENSORS for box in view.boxes) == 2


def test_nothing_recorded_is_no_picture() -> None:
    assert not FlowPicture(FlowGraph(FlowLedger())).build_views()[0].boxes
