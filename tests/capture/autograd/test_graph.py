"""The walk over an autograd graph: what it counts, and that it leaves no trace."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from gradprobe.capture.autograd.graph import MAX_NODES, GraphSummary, find_saved_values, read_graph
from tests import warm_python
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
def test_saved_bytes_match_saved_tensor_hooks() -> None:
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
def test_activation_belongs_to_graph_without_variable() -> None:
    """Activations count for the graph once no variable refers to them."""
    x = thousand()
    h = x * torch.rand(1000)
    out = (h * h).sum()
    assert (read_graph([out]).saved_bytes, read_graph([out]).graph_bytes) == (2 * KILO, KILO)
    del h
    assert read_graph([out]).graph_bytes == 2 * KILO


@needs_saved
def test_referenced_tensors_do_not_belong_to_graph() -> None:
    """Parameters, inputs and outputs with other references do not count for the graph."""
    x, weight = thousand(False), torch.nn.Parameter(thousand(False))
    out = (x * weight).exp()
    assert (read_graph([out]).saved_bytes, read_graph([out]).graph_bytes) == (2 * KILO, 0)


@needs_saved
def test_leaf_owned_by_graph() -> None:
    """A leaf that only the graph refers to counts for it."""

    def made() -> torch.Tensor:
        return thousand() * thousand()

    out = made()
    assert read_graph([out]).graph_bytes == 2 * KILO
    alone = read_graph([made()])
    assert alone.graph_bytes == 2 * KILO


@needs_saved
def test_saved_view_keeps_base() -> None:
    """A saved view keeps its base, which is not an outside owner."""
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
def test_other_tensor_keeps_memory(hold: Any) -> None:
    """Another tensor over the same memory is an outside owner."""
    h = thousand() + 1
    kept = hold(h)
    out = h.sin()
    del h
    assert read_graph([out]).graph_bytes == 0
    del kept
    assert read_graph([out]).graph_bytes == KILO


@needs_saved
def test_storage_object_keeps_memory() -> None:
    """A storage object is an outside owner."""
    h = thousand() + 1
    storage = h.untyped_storage()
    out = h.sin()
    del h
    assert read_graph([out]).graph_bytes == 0
    del storage
    assert read_graph([out]).graph_bytes == KILO


@needs_saved
def test_other_graph_is_outside_owner() -> None:
    """Another graph, which was not read, is an outside owner."""
    h = thousand() + 1
    out, other = h.sin(), h.cos()
    del h
    assert read_graph([out]).graph_bytes == 0
    assert read_graph([out, other]).graph_bytes == KILO
    del other
    assert read_graph([out]).graph_bytes == KILO


@needs_saved
def test_hooked_tensors_counted_without_running_hooks() -> None:
    def refuse(_: Any) -> Any:
        raise AssertionError("unpacked")

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.shape, refuse):
        out = thousand().exp()
    found = read_graph([out])
    assert (found.hooked, found.saved_bytes, found.freed) == (1, 0, False)


@needs_saved
def test_checkpoint_not_recomputed() -> None:
    """A checkpointed segment is not computed again."""
    runs = []

    def stretch(x: torch.Tensor) -> torch.Tensor:
        runs.append(1)
        return x.exp().sin()

    out = checkpoint(stretch, thousand(), use_reentrant=False)
    assert read_graph([out]).hooked == 2
    assert len(runs) == 1


@needs_saved
def test_freed_differs_from_unneeded_operand() -> None:
    """Freed tensors are distinguished from operands that were not needed."""
    x = thousand()
    product = x * torch.rand(1000)
    assert not read_graph([product]).freed
    out = product.exp().sum()
    out.backward()
    assert read_graph([out]).freed
    assert read_graph([out]).saved_bytes == 0
    assert not read_graph([x + 1]).freed


@needs_saved
def test_freed_lists_and_hooked_tensors() -> None:
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
def test_tensors_on_custom_function_context() -> None:
    """Tensors on the context of a custom function are counted."""
    x = thousand()
    out = Keeps.apply(x)
    found = read_graph([out])
    assert found.names == {"KeepsBackward": 1}
    assert (found.saved_bytes, found.graph_bytes) == (4 * KILO, 3 * KILO)
    held = out.grad_fn.several[0]
    assert read_graph([out]).graph_bytes == 2 * KILO
    del held
    del out.grad_fn.several[2]  # a cycle would stay after the test


def test_copy_slices_is_unread() -> None:
    """The tensors saved by an in-place operation on a view count as unread."""
    out = thousand() + 1
    out[:500].mul_(torch.rand(500))
    assert read_graph([out]).unread == 1


def test_refused_history_is_unread() -> None:
    """A history that PyTorch refuses to read counts as unread."""
    base = thousand(False)
    with torch.no_grad():
        view = base.view(-1)
    base.mul_(thousand())
    assert read_graph([view]) == GraphSummary(unread=1)


def test_deep_graph_without_recursion() -> None:
    """A deep graph is read without recursion."""
    x = torch.rand(1, requires_grad=True)
    for _ in range(20_000):
        x = x.sin()
    assert read_graph([x]).nodes == 20_000


def test_keeps_no_reference() -> None:
    """No reference remains afterwards, even without the garbage collector."""
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
def test_sparse_wrapped_and_batched_tensors() -> None:
    """Sparse, wrapped and batched tensors are counted by their parts."""
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


def test_compressed_and_opaque_tensors() -> None:
    """Compressed and opaque tensors give a lower bound."""
    dense = torch.rand(10, 10, requires_grad=True)
    out = torch.eye(10).to_sparse_csr() @ dense
    assert read_graph([out]).saved_bytes >= 0
    assert read_graph([out]).graph_bytes == 0


def test_meta_memory_has_no_bytes() -> None:
    """Memory that does not exist has no bytes."""
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
def test_unseen_by_subclass() -> None:
    """A subclass sees nothing of the reads."""
    out = torch.rand(1000).as_subclass(Loud).requires_grad_().exp().sin()
    before = Loud.calls
    assert read_graph([out]).saved_bytes == KILO
    assert Loud.calls == before


def test_unseen_by_modes() -> None:
    """Function and dispatch modes see nothing of the reads."""
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
def test_inside_functorch_transforms() -> None:
    """The read does not fail inside ``vmap`` and ``grad`` of functorch."""

    def loss(x: torch.Tensor) -> torch.Tensor:
        y = x.exp().sin()
        found.append(read_graph([y]))
        return y.sum()

    found: list[GraphSummary] = []
    torch.vmap(torch.func.grad(loss))(torch.rand(3, 4))
    assert found[0].nodes == 2
    assert found[0].saved_bytes == 3 * 4 * 4


def test_empty_under_compile() -> None:
    """Under ``torch.compile`` the graph is empty and not broken."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        y = x.exp()
        return y * (2.0 if read_graph([y]).nodes == 0 else 3.0)

    x = torch.rand(4, requires_grad=True)
    assert torch.equal(torch.compile(forward, backend="eager", fullgraph=True)(x), x.exp() * 2)


@needs_saved
def test_first_read_of_process(tmp_path: Path) -> None:
    """The floor of the counts is measured in it."""
    program = (
        "import torch; from gradprobe.capture.autograd.graph import read_graph\n"
        "x = torch.rand(1000, requires_grad=True)\n"
        "out = (x + 1).sin()\n"
        "assert read_graph([out]).graph_bytes == 4000\n"
    )
    done = warm_python.run("-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()


def test_graph_deeper_than_limit() -> None:
    """A graph deeper than the stack is counted up to the limit and can be freed."""
    x = torch.ones(2, requires_grad=True)
    y = x
    for _ in range(MAX_NODES * 5):
        y = y + 1
    graph = read_graph([y])
    assert graph.is_truncated
    assert graph.nodes == MAX_NODES
    del y, graph
