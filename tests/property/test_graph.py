"""Whatever a program still holds, the walk tells the graph's own memory from the rest.

The truth is found by deleting the graph: what the program holds is replaced by detached tensors over the same storages,
and then PyTorch's own weak references say which storages are gone.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradprobe.capture.autograd.graph import find_saved_values, read_graph
from tests.thoroughness import examples


class Keeps(torch.autograd.Function):
    """Saves its first input, and keeps other tensors on its ``ctx`` in several ways."""

    @staticmethod
    def forward(ctx: Any, first: Any, second: Any, held: Any) -> Any:
        ctx.save_for_backward(first)
        ctx.own = torch.randn(7)
        ctx.given = second
        ctx.several = [second, {"made": torch.randn(9)}]
        ctx.shared_list = held
        return first + second

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], grads[0], None


class SavesOutput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Any) -> Any:
        result = first.exp()
        ctx.save_for_backward(result, first)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


class Boxed(torch.Tensor):
    """A subclass that is one by Python's ways only."""


def checkpointed(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    from torch.utils.checkpoint import checkpoint

    result: torch.Tensor = checkpoint(lambda a, b: (a.sin() * b).exp(), first, second, use_reentrant=False)
    return result


def under_no_grad(make: Any) -> Any:
    def made(*tensors: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            result: torch.Tensor = make(*tensors)
        return result

    return made


UNARY: dict[str, Any] = {
    "exp": torch.exp,
    "sin": torch.sin,
    "relu": torch.relu,
    "square": lambda a: a * a,
    "softmax": lambda a: torch.softmax(a, -1),
    "times two": lambda a: a * 2,
    "flat": lambda a: a.reshape(-1),
    "transposed": lambda a: a.t(),
    "first rows": lambda a: a[:2],
    "view of a view": lambda a: a[:3].t(),
    "unbound": lambda a: a.unbind(0)[0].expand(4, 4),
    "copied": torch.clone,
    "detached": torch.detach,
    "data": lambda a: a.data,
    "view under no_grad": under_no_grad(lambda a: a.view(a.shape)),
    "made under no_grad": under_no_grad(torch.exp),
    "indexed": lambda a: a[torch.tensor([3, 2, 1, 0])],
    "boxed": lambda a: a.as_subclass(Boxed),
    "saves its output": SavesOutput.apply,
    "in place": lambda a: a.sin_(),
    "in place by a product": lambda a: a.mul_(a.detach().clone()),
    "in place on a view": lambda a: a[0].mul_(2),
}
BINARY: dict[str, Any] = {
    "times": torch.mul,
    "matrix product": torch.matmul,
    "over": lambda a, b: a / (b * b + 1),
    "where": lambda a, b: torch.where(a > 0, a, b),
    "stacked": lambda a, b: torch.stack([a, b]).prod(0),
    "checkpointed": checkpointed,
    # Of itself it would save itself: a cycle in C++ that outlives everything.
    "added in place": lambda a, b: a.addcmul_(b.clone(), b.clone()),
}
HOLDS = ("storage", "numpy", "list", "dict", "attribute")

slots = st.integers(0, 7)
statements = st.one_of(
    st.tuples(st.just("new"), slots, st.booleans()),
    st.tuples(st.just("unary"), slots, st.sampled_from(list(UNARY)), slots),
    st.tuples(st.just("unary"), slots, st.sampled_from(list(UNARY)), slots),
    st.tuples(st.just("binary"), slots, st.sampled_from(list(BINARY)), slots, slots),
    st.tuples(st.just("keeps"), slots, slots, slots, st.booleans()),
    st.tuples(st.just("drop"), slots),
    st.tuples(st.just("drop"), slots),
    st.tuples(st.just("hold"), st.sampled_from(HOLDS), slots),
)


class Holder:
    pass


class Run:
    """A running program: its variables, and other things that hold on to memory."""

    def __init__(self) -> None:
        self.variables: dict[int, torch.Tensor] = {}
        self.leaves: list[torch.Tensor] = []
        self.others: list[Any] = []

    def do(self, kind: str, *arguments: Any) -> None:
        getattr(self, f"do_{kind}")(*arguments)

    def at(self, slot: int) -> torch.Tensor:
        """The variable at ``slot``, or one near it: few programs are lost to names that are not there."""
        there = sorted(self.variables)
        return self.variables[there[slot % len(there)]]

    def do_new(self, slot: int, requires_grad: bool) -> None:
        tensor = self.variables[slot] = torch.rand(4, 4, requires_grad=requires_grad)
        if requires_grad:
            self.leaves.append(tensor)  # a leaf that is not saved is the graph's, but not among what was saved

    def do_unary(self, slot: int, name: str, source: int) -> None:
        self.variables[slot] = UNARY[name](self.at(source))

    def do_binary(self, slot: int, name: str, first: int, second: int) -> None:
        self.variables[slot] = BINARY[name](self.at(first), self.at(second))

    def do_keeps(self, slot: int, first: int, second: int, hold: bool) -> None:
        shared = [self.at(first), torch.randn(11)]
        self.variables[slot] = Keeps.apply(self.at(first), self.at(second), shared)
        if hold:
            self.others.append(shared)

    def do_drop(self, slot: int) -> None:
        del self.variables[slot]

    def do_hold(self, how: str, slot: int) -> None:
        tensor = self.at(slot)
        if how == "storage":
            self.others.append(tensor.untyped_storage())
        elif how == "numpy":
            self.others.append(tensor.detach().numpy())
        elif how == "list":
            self.others.append([tensor])
        elif how == "dict":
            self.others.append({"kept": tensor})
        else:
            holder = Holder()
            vars(holder)["kept"] = tensor
            self.others.append(holder)

    def tensors(self) -> Iterator[torch.Tensor]:
        yield from self.variables.values()
        yield from self.leaves
        for other in self.others:
            if isinstance(other, Holder | dict | list):
                members = vars(other) if isinstance(other, Holder) else other
                yield from members.values() if isinstance(members, dict) else members

    def drop_the_graph(self) -> None:
        """Everything is held as before, but by tensors without a history."""
        self.others = [other for other in self.others if not isinstance(other, Holder | dict | list)] + [
            tensor.detach() for tensor in self.tensors()
        ]
        self.variables.clear()
        self.leaves.clear()


def has_history(tensor: torch.Tensor) -> bool:
    try:
        return tensor.grad_fn is not None
    except RuntimeError:  # a view made under no_grad, whose base was then changed
        return False


def saved_storages(roots: list[torch.Tensor]) -> dict[int, tuple[int, int]]:
    """The storages that the nodes behind ``roots`` saved: address -> weak reference, bytes."""
    found: dict[int, tuple[int, int]] = {}
    seen: set[Any] = set()
    waiting = [root.grad_fn for root in roots]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        saved = find_saved_values(node)
        on_context = [value for value in saved.on_context if isinstance(value, torch.Tensor)]
        for value in saved.on_context:
            if isinstance(value, list):
                on_context += [member for member in value if isinstance(member, torch.Tensor)]
                on_context += [made for member in value if isinstance(member, dict) for made in member.values()]
        for tensor in saved.tensors + on_context:
            storage = tensor.untyped_storage()
            if storage._cdata not in found:
                found[storage._cdata] = (storage._weak_ref(), storage.nbytes())
    return found


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=examples(600), deadline=None, derandomize=True)
@given(st.lists(statements, min_size=4, max_size=25), st.sets(slots))
def test_graph_bytes_are_those_that_go_when_the_graph_goes(program: list[Any], kept: set[int]) -> None:
    gc.disable()
    try:
        run = Run()
        run.do_new(0, True)
        run.do_new(1, False)
        for statement in program:
            with suppress(RuntimeError, KeyError, IndexError, ZeroDivisionError):
                run.do(*statement)
        last = max(run.variables, default=0)
        run.variables = {slot: run.variables[slot] for slot in run.variables if slot in kept or slot == last}
        roots = [tensor for tensor in run.tensors() if has_history(tensor)]
        weak = saved_storages(roots)
        found = read_graph(roots)
        assert read_graph(tensor for tensor in roots) == found, "looking changed what is there"
        assert found.saved_bytes == sum(nbytes for _, nbytes in weak.values())
        roots.clear()
        run.drop_the_graph()
        gone = sum(nbytes for reference, nbytes in weak.values() if torch.UntypedStorage._expired(reference))
        for reference, _ in weak.values():
            torch.UntypedStorage._free_weak_ref(reference)
        if found.unread or found.hooked:
            assert found.graph_bytes <= gone
        else:
            assert found.graph_bytes == gone
    finally:
        gc.enable()
