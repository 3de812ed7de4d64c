"""What the flow ledger says of random programs agrees with a walk of the graphs that their backward passes go through."""

from __future__ import annotations

import threading
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradprobe
from gradprobe.analysis.flow_graph import FlowGraph
from gradprobe.recording.flow import FlowLedger, read_flow
from tests.property.test_operators import PURE, STEPS, Single, Tensors, Twice, no_faults, reachable, run
from tests.thoroughness import examples

OPERATORS = [step for step in PURE if not {Twice.__name__, Single.__name__} & {*step.__code__.co_names}]
"""The steps without custom Functions, whose nodes no operator constructs."""
ROOTS = st.lists(st.lists(st.integers(0, 100), min_size=1, max_size=3), max_size=3)
"""Backward passes, each from some of the tensors that a program made."""


def flow_of(recording: gradprobe.Recording) -> FlowLedger:
    assert no_faults(recording)
    return read_flow(recording._tables.contents[0].notes)


def run_passes(made: Tensors, passes: list[list[int]]) -> tuple[set[Any], int]:
    """Run backward passes; return the nodes that they go through, and how many of them reach the program's leaf."""
    reached, arrived = set[Any](), 0
    computed = [tensor for tensor in made if tensor.grad_fn is not None]
    for numbers in passes if computed else ():
        roots = [computed[number % len(computed)] for number in numbers]
        torch.autograd.backward(roots, [torch.ones_like(root) for root in roots], retain_graph=True)
        nodes = reachable(roots)
        reached |= nodes
        accumulating = {following for node in nodes for following, _ in node.next_functions} - {None} - nodes
        arrived += any(getattr(node, "variable", None) is made[0] for node in accumulating)
    return reached, arrived


@given(STEPS, ROOTS)
@settings(max_examples=examples(20), deadline=None)
def test_nodes_built_and_reached_are_those_of_a_walk(
    steps: list[tuple[int, int, int]], passes: list[list[int]]
) -> None:
    with gradprobe.record(level="ops") as recording, torch.enable_grad():
        made = run(steps, OPERATORS)
        reached, arrived = run_passes(made, passes)
    ledger = flow_of(recording)
    counts = ledger.paths.values()
    assert sum(path.built for path in counts) == len(reachable(made))
    assert sum(path.reached for path in counts) == len(reached)
    assert sum(path.forgotten for path in counts) == 0
    uses = FlowGraph(ledger).uses.values()
    assert sum(use.backwards for use in uses) == arrived


@given(st.lists(STEPS, min_size=2, max_size=3), st.integers(0, 100))
@settings(max_examples=examples(5), deadline=None)
def test_a_pass_reaches_the_nodes_of_other_threads(programs: list[list[tuple[int, int, int]]], number: int) -> None:
    made: list[Tensors] = [[] for _ in programs]

    def work(index: int) -> None:
        with torch.enable_grad():
            made[index] = run(programs[index], OPERATORS)

    with gradprobe.record(level="ops") as recording, torch.enable_grad():
        threads = [threading.Thread(target=work, args=(index,)) for index in range(len(programs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        reached = set[Any]()
        for tensors in made:
            reached |= run_passes(tensors, [[number]])[0]
    paths = flow_of(recording).paths.values()
    assert sum(path.reached for path in paths) == len(reached)
