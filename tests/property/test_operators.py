"""The account of random programs agrees with what autograd itself says afterwards: its graph, its counters, its bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

import gradprobe
from tests.capabilities import needs_saved
from tests.thoroughness import examples

Tensors = list[torch.Tensor]
touched: Tensors = []
"""What steps changed in place without returning it."""


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        y = x + 0
        return y * 2

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0] * 2


class Single(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0]


def in_place(change: Callable[[torch.Tensor], object]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Changes a copy, which no earlier node has saved, and a view of it."""

    def step(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        copy = x.clone()
        change(copy)
        return copy

    return step


def changed_views(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    copy = x.clone(memory_format=torch.contiguous_format)
    view = copy[0]
    view.mul_(2)
    copy.view(-1)[1:].add_(y.reshape(-1)[1:])
    return copy


def foreach(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    one, other = x.clone(), y.detach().clone()
    torch._foreach_add_([one, other], 1)
    touched.extend([one, other])
    return one * other


def without_grad(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        z = x * y
        z.add_(1)
    return z


PURE: list[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = [
    lambda x, y: x + y,
    lambda x, y: x * y,
    lambda x, y: x @ y,
    lambda x, y: x.exp(),
    lambda x, y: x.sigmoid() if x.requires_grad else x,
    lambda x, y: torch.cat([x, y])[:3],
    lambda x, y: x.t(),
    lambda x, y: x[1].expand(3, 3),
    lambda x, y: torch.nn.functional.linear(x, y),
    lambda x, y: x.detach(),
    lambda x, y: torch.softmax(x, -1),
    lambda x, y: Twice.apply(x),
    lambda x, y: Single.apply(x),
    lambda x, y: x.unbind(0)[1].expand(3, 3),
    without_grad,
]
IMPURE = [
    in_place(lambda x: x.add_(1)),
    in_place(lambda x: x[1:].mul_(3)),
    in_place(lambda x: x.t().zero_()),
    in_place(lambda x: touched.append(torch.add(x.detach(), 1, out=torch.empty(3, 3)))),
    in_place(lambda x: x.t()[1].copy_(torch.ones(3))),
    changed_views,
    foreach,
    lambda x, y: checkpoint(lambda a: (a * 2).exp(), x, use_reentrant=False),
    lambda x, y: checkpoint(lambda a: (a * 2).exp(), x, use_reentrant=True),
    lambda x, y: torch.func.grad(lambda a: (a * a).sum())(x.detach()) + x,
    lambda x, y: torch.func.vmap(lambda a: a * 2)(x),
]

STEPS = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100)), min_size=1, max_size=12)


def run(steps: list[tuple[int, int, int]], kinds: list[Any]) -> Tensors:
    """Every tensor that a random program made; all of them stay."""
    made = [torch.rand(3, 3, requires_grad=True), torch.rand(3, 3)]
    for kind, first, second in steps:
        made.append(kinds[kind % len(kinds)](made[first % len(made)], made[second % len(made)]))
    return made


def reachable(tensors: Tensors) -> set[Any]:
    nodes: set[Any] = set()
    waiting = [t.grad_fn for t in tensors if t.grad_fn is not None]
    while waiting:
        node = waiting.pop()
        if node not in nodes:
            nodes.add(node)
            waiting += [following for following, _ in node.next_functions if following is not None]
    return {node for node in nodes if type(node).__name__ != "AccumulateGrad"}


def saved_storages(nodes: set[Any]) -> dict[int, int]:
    """Bytes by storage, read by unpacking every saved tensor, as a backward would."""
    found: dict[int, int] = {}
    for node in nodes:
        names = [name for name in dir(node) if name.startswith("_saved_")]
        values = [getattr(node, name) for name in names] + list(getattr(node, "saved_tensors", ()))
        for value in values:
            for tensor in value if isinstance(value, tuple | list) else (value,):
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    found[storage._cdata] = storage.nbytes()
    return found


def no_faults(recording: gradprobe.Recording) -> bool:
    return not any(kind == "fault" for kind, *_ in recording._tables.contents[0].notes)


@given(STEPS)
@settings(max_examples=examples(60), deadline=None)
def test_nodes_by_operator_are_those_that_a_walk_of_the_graph_finds(steps: list[tuple[int, int, int]]) -> None:
    with gradprobe.record(level="ops") as recording, torch.enable_grad():
        made = run(steps, PURE)
    nodes = reachable(made)
    ops = recording.ops
    assert no_faults(recording)
    names = ops[ops["node"].notna()].groupby("node")["nodes"].sum()
    walked: dict[str, int] = {}
    for node in nodes:
        walked[node.name()] = walked.get(node.name(), 0) + 1
    assert {name: count for name, count in names.items() if count} == walked
    # A custom function of an input without a graph constructs a node all the same, and drops it.
    dropped = ops[ops["op"] == "(no operator)"]["nodes"].sum()
    assert ops["nodes"].sum() - dropped == recording.regions["nodes"].iloc[0] - dropped == len(nodes)
    assert dropped <= sum(kind % len(PURE) in (11, 12) for kind, *_ in steps)


@given(STEPS)
@settings(max_examples=examples(60), deadline=None)
def test_nodes_by_operator_add_up_to_the_region_whatever_the_program_does(steps: list[tuple[int, int, int]]) -> None:
    count = torch.autograd._get_sequence_nr
    with gradprobe.record(level="ops") as recording, torch.enable_grad():
        before = count()
        run(steps, PURE + IMPURE)
        constructed = count() - before
    assert no_faults(recording)
    inside = recording.ops[recording.ops["region"].notna()]
    assert inside["nodes"].sum() == recording.regions[recording.regions["parent"].isna()]["nodes"].sum() == constructed


@given(STEPS)
@settings(max_examples=examples(80), deadline=None)
def test_recorded_bumps_are_the_versions_of_the_tensors(steps: list[tuple[int, int, int]]) -> None:
    kinds = PURE + IMPURE[:-4]
    touched.clear()
    with gradprobe.record(level="ops") as recording, torch.enable_grad():
        made = [torch.rand(3, 3, requires_grad=True), torch.rand(3, 3)]
        for kind, first, second in steps:
            made.append(kinds[kind % len(kinds)](made[first % len(made)], made[second % len(made)]))
            plain = torch.rand(3, 3)
            plain[1:].mul_(2)
            plain.view(-1)[0] = 1
            torch._foreach_mul_([plain[0], plain[1]], 2)
            torch._foreach_mul_([plain, plain.data], 2)
            with torch.no_grad():
                plain.add_(1)
            with torch.inference_mode():
                plain.sub_(1)
                torch.ones(3).add_(1)  # no counter, no bump
            made.append(plain)
    assert no_faults(recording)
    counters = {(t.untyped_storage().data_ptr(), t._version) for t in made + touched}  # views share their base's
    unseen_data = len(steps)  # of `.data`, which has a counter of its own
    assert recording.ops["version_bumps"].sum() == sum(version for _, version in counters) + unseen_data


@needs_saved
@given(STEPS)
@settings(max_examples=examples(60), deadline=None)
def test_saved_bytes_are_those_that_the_nodes_hold(steps: list[tuple[int, int, int]]) -> None:
    with gradprobe.record(level="ops") as recording, torch.enable_grad():
        made = run(steps, PURE)
    saved = saved_storages(reachable(made))
    assert no_faults(recording)
    assert recording.regions["saved_bytes"].iloc[0] == sum(saved.values())
    assert recording.ops["saved_bytes"].sum() == sum(saved.values())
    assert recording.regions["graph_bytes"].iloc[0] == sum(saved.values())  # all were made in the region


@needs_saved
@given(STEPS)
@settings(max_examples=examples(30), deadline=None)
def test_what_was_made_before_a_region_is_not_kept_by_its_graph_alone(steps: list[tuple[int, int, int]]) -> None:
    made = [torch.rand(3, 3, requires_grad=True), torch.rand(3, 3)]
    older = {t.untyped_storage()._cdata for t in made}
    with gradprobe.record(level="ops") as recording, torch.enable_grad():
        for kind, first, second in steps:
            made.append(PURE[kind % len(PURE)](made[first % len(made)], made[second % len(made)]))
    saved = saved_storages(reachable(made))
    assert recording.regions["saved_bytes"].iloc[0] == sum(saved.values())
    assert recording.regions["graph_bytes"].iloc[0] == sum(size for key, size in saved.items() if key not in older)


@given(st.lists(STEPS, min_size=2, max_size=3))
@settings(max_examples=examples(15), deadline=None)
def test_each_thread_has_its_own_account(programs: list[list[tuple[int, int, int]]]) -> None:
    counted: dict[str, int] = {}

    def work(steps: list[tuple[int, int, int]]) -> None:
        before = torch.autograd._get_sequence_nr()
        with torch.enable_grad():
            run(steps, PURE + IMPURE)
        counted[threading.current_thread().name] = torch.autograd._get_sequence_nr() - before

    with gradprobe.record(level="ops") as recording:
        threads = [threading.Thread(target=work, args=(p,), name=f"worker {i}") for i, p in enumerate(programs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert no_faults(recording)
    found = recording.ops.groupby(recording.ops["thread"].str.split(" #").str[0])["nodes"].sum()
    assert found.to_dict() == counted


@given(STEPS)
@settings(max_examples=examples(20), deadline=None)
def test_operators_added_up_beyond_the_limit_are_those_kept(steps: list[tuple[int, int, int]]) -> None:
    columns = ["count", "nodes", "version_bumps", "counters_created", "tracked_views", "normal_outputs"]

    def program() -> None:
        for mode in (torch.enable_grad, torch.no_grad):
            with mode():
                run(steps, PURE + IMPURE)
        with torch.no_grad():
            run(steps, PURE)

    program()
    with gradprobe.record(level="ops") as kept:
        program()
    with gradprobe.record(level="ops", limit=0) as folded:
        program()
    assert no_faults(folded)
    sums = [recording.ops.groupby(["op", "line"])[columns].sum() for recording in (kept, folded)]
    assert sums[0].equals(sums[1])
    # What ran in them is not known any more, so it is missing, not 0.
    assert folded.regions["version_bumps"].isna().all()
    assert folded.sites["version_bumps"].isna().all()
    assert "operators" in str(folded)
