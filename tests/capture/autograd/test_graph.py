"""The walk over an autograd graph: what it counts, and that it leaves no trace."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from gradprobe.capture.autograd.graph import MAX_NODES, GraphSummary, find_saved_values, read_graph
from tests.capabilities import needs_saved

KILO = 4000  # bytes of a thousand floats


def thousand(requires_grad: bool = True) -> torch.Tensor:
    return torch.rand(1000, requires_grad=requires_grad)


def test_nodes_names_and_numbers_leave_out_the_leaves() -> None:
    x = thousand()
    before = torch.autograd._get_sequence_nr()
    y = (x.exp() * x).sum()
    found = read_graph([y])
    assert found.nodes == 3 == torch.autograd._get_sequence_nr() - before
    assert found.names == {"SumBackward0": 1, "MulBackward0": 1, "ExpBackward0": 1}
    assert sorted(found.sequence_numbers) == list(range(before, before + 3))
    assert read_graph([y], read_saved=False) == GraphSummary(found.nodes, found.names, found.sequence_numbers)


def test_no_tensors_and_no_history_give_an_empty_graph() -> None:
    assert read_graph([]) == GraphSummary() == read_graph([thousand(), thousand(False)])


@needs_saved
def test_saved_bytes_are_those_that_saved_tensor_hooks_are_given() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.LayerNorm(16), torch.nn.Linear(16, 4))
    x = torch.rand(5, 8)
    given: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        given[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    assert read_graph([model(x)]).saved_bytes == sum(storage.nbytes() for storage in given.values())


@needs_saved
def test_an_activation_counts_for_the_graph_once_its_variable_is_gone() -> None:
    x = thousand()
    h = x * torch.rand(1000)
    out = (h * h).sum()
    assert (read_graph([out]).saved_bytes, read_graph([out]).graph_bytes) == (2 * KILO, KILO)
    del h
    assert read_graph([out]).graph_bytes == 2 * KILO


@needs_saved
def test_parameters_inputs_and_outputs_that_are_held_are_not_the_graphs() -> None:
    x, weight = thousand(False), torch.nn.Parameter(thousand(False))
    out = (x * weight).exp()
    assert (read_graph([out]).saved_bytes, read_graph([out]).graph_bytes) == (2 * KILO, 0)


@needs_saved
def test_a_leaf_that_only_the_graph_holds_is_the_graphs() -> None:
    def made() -> torch.Tensor:
        return thousand() * thousand()

    out = made()
    assert read_graph([out]).graph_bytes == 2 * KILO
    alone = read_graph([made()])
    assert alone.graph_bytes == 2 * KILO


@needs_saved
def test_a_view_saved_keeps_its_base_which_is_not_an_owner_outside() -> None:
    h = thousand() + 1
    out = h.view(10, 100).exp_().t()[3:4].sin()
    assert read_graph([out]).unread
    h = thousand() + 1
    view = h.view(10, 100)
    out = view.sin()
    assert read_graph([out]).graph_bytes == 0
    del h
    assert read_graph([out]).graph_bytes == 0
    del view
    assert read_graph([out]).graph_bytes == KILO


@needs_saved
@pytest.mark.parametrize(
    "hold", [lambda h: h.view(-1), lambda h: h.detach(), lambda h: h.detach().numpy(), lambda h: [h]]
)
def test_another_tensor_over_the_same_memory_keeps_it(hold: Any) -> None:
    h = thousand() + 1
    kept = hold(h)
    out = h.sin()
    del h
    assert read_graph([out]).graph_bytes == 0
    del kept
    assert read_graph([out]).graph_bytes == KILO


@needs_saved
def test_a_storage_object_keeps_it() -> None:
    h = thousand() + 1
    storage = h.untyped_storage()
    out = h.sin()
    del h
    assert read_graph([out]).graph_bytes == 0
    del storage
    assert read_graph([out]).graph_bytes == KILO


@needs_saved
def test_another_graph_that_was_not_walked_is_an_owner_outside() -> None:
    h = thousand() + 1
    out, other = h.sin(), h.cos()
    del h
    assert read_graph([out]).graph_bytes == 0
    assert read_graph([out, other]).graph_bytes == KILO
    del other
    assert read_graph([out]).graph_bytes == KILO


@needs_saved
def test_hooked_tensors_are_counted_and_their_hooks_are_not_run() -> None:
    def refuse(_: Any) -> Any:
        raise AssertionError("unpacked")

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.shape, refuse):
        out = thousand().exp()
    found = read_graph([out])
    assert (found.hooked, found.saved_bytes, found.freed) == (1, 0, False)


@needs_saved
def test_a_checkpointed_stretch_is_not_computed_again() -> None:
    runs = []

    def stretch(x: torch.Tensor) -> torch.Tensor:
        runs.append(1)
        return x.exp().sin()

    out = checkpoint(stretch, thousand(), use_reentrant=False)
    assert read_graph([out]).hooked == 2
    assert len(runs) == 1


@needs_saved
def test_freed_is_told_from_operands_that_were_not_needed() -> None:
    x = thousand()
    product = x * torch.rand(1000)
    assert not read_graph([product]).freed
    out = product.exp().sum()
    out.backward()
    assert read_graph([out]).freed
    assert read_graph([out]).saved_bytes == 0
    assert not read_graph([x + 1]).freed


@needs_saved
def test_freed_lists_and_hooked_tensors_are_noticed() -> None:
    picked = thousand()[torch.tensor([1, 2])].sum()
    picked.backward()
    assert read_graph([picked]).freed
    with torch.autograd.graph.save_on_cpu():
        out = thousand().exp().sum()
    out.backward()
    found = read_graph([out])
    assert found.freed
    assert found.hooked == 0


class Keeps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.made = torch.rand(1000)
        ctx.several = [torch.rand(1000), {"deeper": (torch.rand(1000),)}]
        ctx.endless = ctx.several
        ctx.several.append(ctx.several)
        ctx.name = "a name of its own"
        ctx.variable = "and this"
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


@needs_saved
def test_tensors_on_the_context_of_a_custom_function_are_counted() -> None:
    x = thousand()
    out = Keeps.apply(x)
    found = read_graph([out])
    assert found.names == {"KeepsBackward": 1}
    assert (found.saved_bytes, found.graph_bytes) == (4 * KILO, 3 * KILO)
    held = out.grad_fn.several[0]
    assert read_graph([out]).graph_bytes == 2 * KILO
    del held
    del out.grad_fn.several[2]  # a cycle would outlive the test


def test_what_an_in_place_change_of_a_view_saved_is_said_to_be_unread() -> None:
    out = thousand() + 1
    out[:500].mul_(torch.rand(500))
    assert read_graph([out]).unread == 1


def test_a_history_that_pytorch_refuses_to_tell_is_unread() -> None:
    base = thousand(False)
    with torch.no_grad():
        view = base.view(-1)
    base.mul_(thousand())
    assert read_graph([view]) == GraphSummary(unread=1)


def test_a_deep_graph_is_walked_without_recursion() -> None:
    x = torch.rand(1, requires_grad=True)
    for _ in range(20_000):
        x = x.sin()
    assert read_graph([x]).nodes == 20_000


def test_nothing_is_held_afterwards_even_without_the_collector() -> None:
    gc.disable()
    try:
        h = thousand() + 1
        reference = weakref.ref(h)
        storage = h.untyped_storage()._weak_ref()
        out = Keeps.apply(h.sin())
        del out.grad_fn.several[2]
        del h
        read_graph([out])
        find_saved_values(out.grad_fn)
        assert reference() is not None
        del out
        assert reference() is None
        assert torch.UntypedStorage._expired(storage)
    finally:
        gc.enable()


@needs_saved
def test_sparse_wrapped_and_batched_tensors_are_counted_by_their_parts() -> None:
    matrix = torch.eye(10).to_sparse().requires_grad_()
    dense = torch.rand(10, 10, requires_grad=True)
    out = torch.sparse.mm(matrix, dense)
    assert read_graph([out]).saved_bytes == 400 + 10 * 4 + 20 * 8
    assert read_graph([out]).graph_bytes == 0
    del matrix
    assert read_graph([out]).graph_bytes == 10 * 4 + 20 * 8

    from torch.testing._internal.two_tensor import TwoTensor

    pair = TwoTensor(thousand(False), thousand(False)).requires_grad_()
    out = pair.exp()
    result = out.sin()
    del out
    assert read_graph([result]).saved_bytes == 4 * KILO - 2 * KILO
    assert read_graph([result]).graph_bytes == 2 * KILO


def test_compressed_and_opaque_tensors_give_a_lower_bound() -> None:
    dense = torch.rand(10, 10, requires_grad=True)
    out = torch.eye(10).to_sparse_csr() @ dense
    assert read_graph([out]).saved_bytes >= 0
    assert read_graph([out]).graph_bytes == 0


def test_memory_that_is_not_there_has_no_bytes() -> None:
    assert read_graph([torch.rand(1000, device="meta", requires_grad=True).exp()]).saved_bytes == 0
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        out = torch.rand(1000, requires_grad=True).exp()
        assert read_graph([out]).nodes == 1
    assert read_graph([out]).saved_bytes == 0


class Loud(torch.Tensor):
    calls = 0

    @classmethod
    def __torch_function__(cls, *arguments: Any, **options: Any) -> Any:
        cls.calls += 1
        return super().__torch_function__(*arguments, **options)


@needs_saved
def test_a_subclass_hears_nothing_of_it() -> None:
    out = torch.rand(1000).as_subclass(Loud).requires_grad_().exp().sin()
    before = Loud.calls
    assert read_graph([out]).saved_bytes == KILO
    assert Loud.calls == before


def test_function_and_dispatch_modes_hear_nothing_of_it() -> None:
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    heard = []

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            heard.append(func)
            return func(*args, **(kwargs or {}))

    class Operators(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            heard.append(func)
            return func(*args, **(kwargs or {}))

    matrix = torch.eye(10).to_sparse().requires_grad_()
    out = torch.sparse.mm(matrix, torch.rand(10, 10, requires_grad=True)).exp()
    with Functions(), Operators():
        read_graph([out])
    assert heard == []


@needs_saved
def test_inside_vmap_and_grad_of_functorch_it_does_not_fail() -> None:
    def loss(x: torch.Tensor) -> torch.Tensor:
        y = x.exp().sin()
        found.append(read_graph([y]))
        return y.sum()

    found: list[GraphSummary] = []
    torch.vmap(torch.func.grad(loss))(torch.rand(3, 4))
    assert found[0].nodes == 2
    assert found[0].saved_bytes == 3 * 4 * 4


def test_under_compile_it_is_an_empty_graph_and_breaks_nothing() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        y = x.exp()
        return y * (2.0 if read_graph([y]).nodes == 0 else 3.0)

    x = torch.rand(4, requires_grad=True)
    assert torch.equal(torch.compile(forward, backend="eager", fullgraph=True)(x), x.exp() * 2)


@needs_saved
def test_the_first_walk_of_a_process_counts_right() -> None:
    """The floor of the counts is measured in it."""
    program = (
        "import torch; from gradprobe.capture.autograd.graph import read_graph\n"
        "x = torch.rand(1000, requires_grad=True)\n"
        "out = (x + 1).sin()\n"
        "assert read_graph([out]).graph_bytes == 4000\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


def test_a_graph_deeper_than_the_stack_is_counted_up_to_a_limit_and_can_be_freed() -> None:
    x = torch.ones(2, requires_grad=True)
    y = x
    for _ in range(MAX_NODES * 5):
        y = y + 1
    graph = read_graph([y])
    assert graph.is_truncated
    assert graph.nodes == MAX_NODES
    del y, graph
