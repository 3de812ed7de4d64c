"""Questions to the flow of a program, asked of ledgers made by hand."""

from __future__ import annotations

import pytest

from gradprobe.analysis.flow_graph import Cut, FlowGraph
from gradprobe.recording.flow import (
    BACKWARD_SITE,
    CUT_BY_DETACH,
    CUT_BY_NO_GRAD,
    GRAD_SITE,
    NOT_DIFFERENTIABLE,
    STEP_SITE,
)
from tests.analysis.ledgers import HandMade


def test_a_leaf_knows_its_passes_its_steps_and_what_wrote_it() -> None:
    made = HandMade()
    filled, used, updated = made.site("aten.normal_", 1), made.site("aten.linear", 2), made.site("aten.lerp_", 3)
    backward, grad = made.site(BACKWARD_SITE, 4), made.site(GRAD_SITE, 5)
    step = made.site(STEP_SITE, 6)
    leaf = made.leaf("model.weight", made_at=filled, optimizer="SGD")
    made.edge(leaf, filled, written=1)
    made.edge(leaf, used, carried=7)
    made.edge(leaf, updated, written=5)
    scaled = made.site("aten.mul", 7)
    made.edge(backward, scaled, without_grad=5)
    made.edge(scaled, updated, without_grad=5)
    made.edge(leaf, backward, carried=4, without_grad=1)
    made.edge(leaf, grad, carried=2)
    made.edge(leaf, step, carried=3, without_grad=1)
    use = FlowGraph(made.ledger).uses[leaf]
    assert (use.sites, use.carried) == ([used], [used])
    assert (use.backwards, use.roots, use.grads) == (4, 1, 2)
    assert (use.steps, use.steps_with_grad, use.steps_without_grad) == (4, 3, 1)
    assert use.is_updated


def test_a_leaf_that_is_written_with_other_values_is_not_updated() -> None:
    made = HandMade()
    backward, loaded = made.site(BACKWARD_SITE, 1), made.site("aten.copy_", 2)
    leaf = made.leaf("teacher.weight")
    made.edge(leaf, backward, carried=40)
    made.edge(leaf, loaded, written=40)
    made.edge(made.site("aten.randn", 3), loaded, without_grad=40)
    assert not FlowGraph(made.ledger).uses[leaf].is_updated


def trained_through_a_cut(passage: str) -> tuple[FlowGraph, int, int]:
    """An encoder whose result is cut before the head; returns the graph, the leaf and the site of the cut."""
    made = HandMade()
    encode, cut, head = made.site("aten.linear", 1), made.site("aten.relu", 2), made.site("aten.linear", 3)
    log, backward = made.site("aten.item", 9), made.site(BACKWARD_SITE, 4)
    leaf, other = made.leaf("encoder.weight"), made.leaf("head.weight")
    made.edge(leaf, encode, carried=3)
    made.edge(encode, cut, **{passage: 3})
    made.edge(encode, log, not_differentiable=3)  # leads nowhere
    made.edge(cut, head, **{"carried" if passage == "carried" else "without_grad": 3})
    made.edge(other, head, carried=3)
    made.edge(head, backward, carried=3)
    return FlowGraph(made.ledger), leaf, cut


def test_the_cut_on_the_way_to_the_loss_is_found_and_not_one_beside_it() -> None:
    for passage, number in (("no_grad", CUT_BY_NO_GRAD), ("detach", CUT_BY_DETACH)):
        graph, leaf, site = trained_through_a_cut(passage)
        (cut,) = graph.find_cuts(graph.uses[leaf])
        assert (cut.site, cut.passage, cut.count) == (site, number, 3)


def test_nothing_is_cut_where_the_whole_way_carries() -> None:
    graph, leaf, _ = trained_through_a_cut("carried")
    assert graph.find_cuts(graph.uses[leaf]) == []
    assert graph.find_ends(graph.uses[leaf]) == []


def test_a_way_that_is_not_cut_ends_where_nothing_takes_the_result() -> None:
    made = HandMade()
    used, loss, backward = made.site("aten.linear", 1), made.site("aten.mean", 2), made.site(BACKWARD_SITE, 3)
    leaf = made.leaf("auxiliary.weight")
    made.edge(leaf, used, carried=2)
    made.edge(used, loss, carried=2)
    made.edge(made.site("aten.sum", 4), backward, carried=2)
    graph = FlowGraph(made.ledger)
    assert graph.find_ends(graph.uses[leaf]) == [loss]


def test_cuts_behind_a_result_without_a_graph_are_found_through_what_carries_no_gradient() -> None:
    made = HandMade()
    output, item, scaled = made.site("aten.mean", 1), made.site("aten.item", 2), made.site("aten.mul", 3)
    leaf = made.leaf("model.weight")
    made.edge(leaf, output, carried=2)
    made.edge(output, item, not_differentiable=2)
    made.edge(item, scaled, without_grad=2)
    assert FlowGraph(made.ledger).trace_back(scaled) == [Cut(output, item, NOT_DIFFERENTIABLE, 2)]


def test_a_walk_ends_in_a_loop() -> None:
    made = HandMade()
    cell, backward = made.site("aten.gru_cell", 1), made.site(BACKWARD_SITE, 2)
    leaf = made.leaf("cell.weight")
    made.edge(leaf, cell, carried=5)
    made.edge(cell, cell, carried=4, without_grad=1)
    made.edge(cell, backward, carried=5)
    graph = FlowGraph(made.ledger)
    assert graph.follow([cell]) == [cell, backward]
    assert graph.leading_to_sinks == {cell, backward}
    assert graph.trace_back(cell) == []


def test_a_site_mixes_if_it_takes_more_than_leaves() -> None:
    made = HandMade()
    layer, norm, data = made.site("aten.linear", 1), made.site("aten.norm", 2), made.site("aten.randn", 3)
    leaf = made.leaf("model.weight")
    made.edge(leaf, layer, carried=1)
    made.edge(data, layer, without_grad=1)
    made.edge(leaf, norm, carried=1)
    graph = FlowGraph(made.ledger)
    assert graph.mixes(layer)
    assert not graph.mixes(norm)


@pytest.mark.parametrize(
    ("looks", "text"),
    [((30, 33), "any of 33 optimizer steps"), ((32, 33), "any of 33 optimizer steps that the recording looked at")],
)
def test_the_number_of_steps_says_when_only_some_were_looked_at(looks: tuple[int, int], text: str) -> None:
    made = HandMade()
    step = made.site(STEP_SITE, 6)
    for root, count in zip(("Actor", "Critic"), looks, strict=True):
        for name in ("weight", "bias"):
            made.edge(made.leaf(f"{root}.{name}", optimizer="Adam"), step, carried=count)
    assert FlowGraph(made.ledger).count_steps(33) == text
