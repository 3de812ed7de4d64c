"""Claims of ``inspect``: each operation that it says will fail is run, and the error compared."""

from __future__ import annotations

import functools
import gc
import json
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

import gradprobe
from gradprobe.capture.autograd import ownership
from gradprobe.capture.autograd.creation import CreationSite
from gradprobe.inspection import Inspection
from tests.capabilities import needs_saved

Make = Callable[[], torch.Tensor]


def needing_grad() -> torch.Tensor:
    return torch.rand(2, 3, requires_grad=True)


def scalar() -> torch.Tensor:
    return torch.ones((), requires_grad=True)


def computed() -> torch.Tensor:
    return needing_grad() * 1


def in_inference(make: Make) -> torch.Tensor:
    with torch.inference_mode():
        return make()


def under_no_grad(make: Make) -> torch.Tensor:
    with torch.no_grad():
        return make()


def parameter_with_data_of_inference_mode() -> torch.Tensor:
    parameter = nn.Parameter(torch.rand(2, 3))
    with torch.inference_mode():
        parameter.data = torch.rand(2, 3)
    return parameter


def parameter_moved_in_inference_mode() -> torch.Tensor:
    layer = nn.Linear(3, 2)
    with torch.inference_mode():
        layer.to(torch.float64)
    return layer.weight


def with_normal_data(tensor: torch.Tensor) -> torch.Tensor:
    tensor.data = torch.rand(2, 3)
    return tensor


def freed() -> torch.Tensor:
    out = needing_grad().exp()
    out.sum().backward()
    return out


def view_refused() -> torch.Tensor:
    base = torch.rand(2, 3)
    view = under_no_grad(lambda: base.view(6))
    base.mul_(scalar())
    return view


class ReturnsView(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0].view(2, 3)


class Loud(torch.Tensor):
    heard = 0

    @classmethod
    def __torch_function__(cls, *arguments: Any, **options: Any) -> Any:
        cls.heard += 1
        return super().__torch_function__(*arguments, **options)


def pair(requires_grad: bool = False) -> torch.Tensor:
    from torch.testing._internal.two_tensor import TwoTensor

    return TwoTensor(torch.rand(2, 3), torch.rand(2, 3)).requires_grad_(requires_grad)


def fake() -> torch.Tensor:
    from torch._subclasses import FakeTensorMode

    return FakeTensorMode().from_tensor(torch.rand(2, 3))


def nested(layout: torch.layout) -> torch.Tensor:
    return torch.nested.nested_tensor([torch.rand(2), torch.rand(3)], layout=layout)


def sparse(layout: str) -> torch.Tensor:
    dense = torch.eye(4)
    block = {"blocksize": (2, 2)} if layout in ("sparse_bsr", "sparse_bsc") else {}
    return dense.to_sparse(layout=getattr(torch, layout), **block)


PLAIN: dict[str, Make] = {
    "normal": lambda: torch.rand(2, 3),
    "integers": lambda: torch.arange(6).view(2, 3),
    "leaf": needing_grad,
    "parameter": lambda: nn.Parameter(torch.rand(2, 3)),
    "computed": computed,
    "freed": freed,
    "inference": lambda: in_inference(lambda: torch.rand(2, 3)),
    "inference integers": lambda: in_inference(lambda: torch.arange(6)),
    "inference parameter": lambda: in_inference(lambda: nn.Parameter(torch.rand(2, 3))),
    "data of inference mode": parameter_with_data_of_inference_mode,
    "moved in inference mode": parameter_moved_in_inference_mode,
    "inference given normal data": lambda: with_normal_data(in_inference(lambda: torch.rand(2, 3))),
    "inference parameter given normal data": lambda: with_normal_data(
        in_inference(lambda: nn.Parameter(torch.rand(2, 3)))
    ),
    "view": lambda: computed().view(6),
    "view of a plain one": lambda: torch.rand(2, 3).view(6),
    "view of a leaf": lambda: needing_grad().view(6),
    "view under no_grad": lambda: under_no_grad(lambda: torch.rand(2, 3).view(6)),
    "view of a leaf under no_grad": lambda: (lambda x: under_no_grad(lambda: x.view(6)))(needing_grad()),
    "view of a computed one under no_grad": lambda: (lambda x: under_no_grad(lambda: x.view(6)))(computed()),
    "view in inference mode": lambda: (lambda x: in_inference(lambda: x.view(6)))(torch.rand(2, 3)),
    "view of a leaf in inference mode": lambda: (lambda x: in_inference(lambda: x.view(6)))(needing_grad()),
    "view changed in place": lambda: computed().view(6).mul_(2),
    "unbound": lambda: computed().unbind(0)[1],
    "split": lambda: computed().split(1)[1],
    "chunk of a leaf": lambda: needing_grad().chunk(2)[0],
    "unbound plain": lambda: torch.rand(2, 3).unbind(0)[0],
    "unbound under no_grad": lambda: (lambda x: under_no_grad(lambda: x.unbind(0)[0]))(needing_grad()),
    "view by a custom function": lambda: ReturnsView.apply(computed()),
    "expanded": lambda: torch.rand(1, 3).expand(2, 3),
    "expanded and computed": lambda: (torch.rand(1, 3, requires_grad=True) * 1).expand(2, 3),
    "detached": lambda: computed().detach(),
    "complex": lambda: torch.rand(2, 3, dtype=torch.cfloat),
    "complex leaf": lambda: torch.rand(2, 3, dtype=torch.cfloat, requires_grad=True),
    "empty": lambda: torch.empty(0, 3),
    "empty leaf": lambda: torch.empty(0, 3, requires_grad=True),
    "meta": lambda: torch.rand(2, 3, device="meta"),
    "meta leaf": lambda: torch.rand(2, 3, device="meta", requires_grad=True),
    "subclass": lambda: torch.rand(2, 3).as_subclass(Loud),
    "scalar": lambda: torch.ones(()),
}
SPECIAL: dict[str, Make] = {
    "refused view": view_refused,
    "wrapper": pair,
    "wrapper leaf": lambda: pair(True),
    "fake": fake,
    "nested": lambda: nested(torch.strided),
    "jagged": lambda: nested(torch.jagged),
    "COO": lambda: sparse("sparse_coo"),
    "COO leaf": lambda: sparse("sparse_coo").requires_grad_(),
    "CSR": lambda: sparse("sparse_csr"),
    "CSC": lambda: sparse("sparse_csc"),
    "BSR": lambda: sparse("sparse_bsr"),
    "BSC": lambda: sparse("sparse_bsc"),
    "inference COO": lambda: in_inference(lambda: sparse("sparse_coo")),
    "inference wrapper": lambda: in_inference(pair),
    "quantized": lambda: torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.quint8),
    "opaque": lambda: torch.rand(2, 3).to_mkldnn(),
}


def change(tensor: torch.Tensor) -> None:
    tensor.add_(1)


ACTIONS: dict[str, Callable[[torch.Tensor], Any]] = {
    "an in-place operation under no_grad, outside inference mode": torch.no_grad()(change),
    "an operation that saves it for backward, such as multiplying it by a tensor that requires grad": (
        lambda tensor: tensor * torch.ones((), requires_grad=True, device=tensor.device)
    ),
    "requires_grad_() outside inference mode": lambda tensor: tensor.requires_grad_(),
    "requires_grad_()": lambda tensor: tensor.requires_grad_(),
    "reading its _version": lambda tensor: tensor._version,
    "backward() from an operation on it alone, such as t.sum(): no node is recorded": lambda tensor: (
        tensor.sum().backward()
    ),
    "backward() through its graph, which an earlier backward pass has freed": lambda tensor: tensor.sum().backward(),
    "an in-place operation with grad enabled": change,
    "an in-place operation with grad enabled and an operand that requires grad": (
        lambda tensor: tensor.add_(torch.ones((), requires_grad=True))
    ),
    "in-place arithmetic: several of its elements share one memory location": torch.no_grad()(change),
    "reading its grad_fn, and every operation on it that autograd records": lambda tensor: tensor.grad_fn,
    "copying its data, as .to('cpu') does": lambda tensor: tensor.to("cpu"),
    "numpy()": lambda tensor: tensor.numpy(),
    "untyped_storage()": lambda tensor: tensor.untyped_storage(),
    "reading its shape": lambda tensor: tensor.shape,
    "backward() from a complex result, such as t.sum()": lambda tensor: tensor.sum().backward(),
    "reading a value, as t.sum().item() does, inside torch.vmap": lambda tensor: tensor.sum().item(),
    "backward() inside a torch.func transform": lambda tensor: tensor.sum().backward(),
}


def error_of(action: Callable[[torch.Tensor], Any], tensor: torch.Tensor) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            action(tensor)
    except Exception as error:
        return str(error)
    return None


@contextmanager
def unchanged(tensor: torch.Tensor) -> Iterator[None]:
    """Fails if inspecting changed the tensor, the modes, or the count of autograd nodes."""

    def state() -> Any:
        with torch._C.DisableTorchFunction():
            try:
                version = tensor._version
            except RuntimeError:
                version = None
            return (
                version,
                tensor.requires_grad,
                tensor.is_inference(),
                torch.is_grad_enabled(),
                torch.is_inference_mode_enabled(),
                torch.autograd._get_sequence_nr(),
            )

    before = state()
    yield
    assert state() == before


@functools.cache
def has_these_words() -> bool:
    """Return whether this PyTorch uses the exact error texts that are quoted; others begin alike."""
    error = error_of(ACTIONS[GENERAL[1]], PLAIN["inference"]())
    return error in [problem.error for problem in gradprobe.inspect(PLAIN["inference"]()).problems]


def words(error: str | None) -> str | None:
    return error if error is None or has_these_words() else error[:_ALIKE]


_ALIKE = 15


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*PLAIN, *SPECIAL])
def test_what_is_said_to_fail_fails_with_these_words(name: str) -> None:
    make = {**PLAIN, **SPECIAL}[name]
    tensor = make()
    with unchanged(tensor):
        seen = gradprobe.inspect(tensor)
    for problem in seen.problems:
        assert words(error_of(ACTIONS[problem.what], make())) == words(problem.error), problem.what
        assert problem.fix
        assert "\n" not in problem.fix
    assert seen.fix == (seen.problems[0].fix if seen.problems else None)


GENERAL = [
    "an in-place operation under no_grad, outside inference mode",
    "an operation that saves it for backward, such as multiplying it by a tensor that requires grad",
    "reading its _version",
    "an in-place operation with grad enabled",
    "copying its data, as .to('cpu') does",
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("what", GENERAL)
def test_what_fails_is_said(name: str, what: str) -> None:
    error = error_of(ACTIONS[what], PLAIN[name]())
    found = [words(problem.error) for problem in gradprobe.inspect(PLAIN[name]()).problems]
    assert error is None or words(error) in found


@pytest.mark.parametrize(
    "name", ["normal", "integers", "computed", "view", "complex", "empty", "scalar", "detached", "subclass"]
)
def test_nothing_is_wrong_with_a_usual_tensor(name: str) -> None:
    seen = gradprobe.inspect(PLAIN[name]())
    assert (seen.kind, seen.problems, seen.fix) == ("normal", [], None)


@pytest.mark.parametrize(
    ("name", "kind", "version"),
    [
        ("normal", "normal", 0),
        ("inference", "inference", None),
        ("inference parameter", "inference", None),
        ("data of inference mode", "inference with a version counter", 0),
        ("moved in inference mode", "inference with a version counter", 1),
        ("inference given normal data", "normal without a version counter", None),
        ("inference parameter given normal data", "normal without a version counter", None),
    ],
)
def test_there_are_four_kinds(name: str, kind: str, version: int | None) -> None:
    seen = gradprobe.inspect(PLAIN[name]())
    assert (seen.kind, seen.version) == (kind, version)
    assert seen.kind in gradprobe.TensorKind
    assert f"{seen.kind} {json.dumps(seen.kind)} {seen.kind!s}" == f'{kind} "{kind}" {kind}'
    assert (seen.version_reason is None) == (version is not None)


def works(tensor: torch.Tensor) -> bool:
    (tensor * scalar()).sum().backward()
    with torch.no_grad():
        tensor.add_(1)
    return tensor._version >= 0


@pytest.mark.parametrize("name", ["inference", "inference parameter"])
def test_the_fix_for_inference_tensors_works(name: str) -> None:
    tensor = PLAIN[name]()
    assert "t.clone()" in str(gradprobe.inspect(tensor).fix)
    assert works(tensor.clone())
    assert works(under_no_grad(lambda: torch.rand(2, 3)))


@pytest.mark.parametrize("name", ["data of inference mode", "moved in inference mode"])
def test_the_fix_for_data_of_inference_mode_works(name: str) -> None:
    tensor = PLAIN[name]()
    assert "t.data = t.data.clone()" in str(gradprobe.inspect(tensor).fix)
    tensor.data = tensor.data.clone()
    assert gradprobe.inspect(tensor).kind == "normal"
    tensor.sum().backward()
    assert works(tensor)


@pytest.mark.parametrize("name", ["inference given normal data", "inference parameter given normal data"])
def test_the_fix_for_a_lost_counter_works(name: str) -> None:
    tensor = PLAIN[name]()
    assert "t.data.clone()" in str(gradprobe.inspect(tensor).fix)
    assert works(tensor.data.clone())
    assert works(nn.Parameter(tensor.data.clone()))


def test_the_other_fixes_work() -> None:
    with torch.no_grad():
        needing_grad().add_(1)
        PLAIN["view of a leaf under no_grad"]().add_(1)
        PLAIN["view of a leaf in inference mode"]().add_(1)
    computed()[0].add_(1)
    ReturnsView.apply(computed()).clone().add_(1)
    PLAIN["expanded"]().clone().add_(1)
    out = needing_grad().exp()
    out.sum().backward(retain_graph=True)
    assert gradprobe.inspect(out).fix is None
    out.sum().backward()
    PLAIN["complex leaf"]().sum().abs().backward()
    torch.empty_like(PLAIN["meta"](), device="cpu").fill_(1)
    for layout in ("sparse_coo", "sparse_csr", "sparse_bsc"):
        sparse(layout).to_dense().numpy()
    jagged = nested(torch.jagged)
    jagged.values(), jagged.offsets()
    SPECIAL["opaque"]().to_dense().untyped_storage()
    SPECIAL["quantized"]().dequantize().requires_grad_()


def test_views_bases_and_tracking_are_told() -> None:
    view = gradprobe.inspect(torch.rand(2, 3)[0])
    assert (view.is_view, view.view_tracked, view.base) == (
        True,
        True,
        "Tensor of shape (2, 3), torch.float32, on cpu",
    )
    untracked = gradprobe.inspect(in_inference(lambda: torch.rand(2, 3)[0]))
    assert (untracked.is_view, untracked.view_tracked, untracked.base) == (True, False, None)
    plain = gradprobe.inspect(torch.rand(2, 3))
    assert (plain.is_view, plain.view_tracked, plain.storage_bytes) == (False, False, 24)


@needs_saved
def test_nodes_and_bytes_are_those_of_the_graph() -> None:
    out = torch.rand(1000, requires_grad=True).exp().sin()
    seen = gradprobe.inspect(out)
    assert (seen.nodes, seen.saved_bytes, seen.graph_bytes) == (2, 4000, 4000)
    assert (seen.grad_fn, seen.is_leaf, seen.requires_grad) == ("SinBackward0", False, True)
    assert "2 autograd nodes, 4,000 bytes saved for backward" in str(seen)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "traits"),
    [
        (lambda: nn.Parameter(torch.rand(2)), {"parameter"}),
        pytest.param(
            lambda: nn.Buffer(torch.rand(2)),
            {"buffer"},
            marks=pytest.mark.skipif(not hasattr(nn, "Buffer"), reason="this PyTorch has no class of buffers"),
        ),
        (PLAIN["subclass"], {"subclass"}),
        (pair, {"subclass", "wrapper"}),
        (fake, {"subclass", "wrapper", "fake"}),
        (PLAIN["meta"], {"meta"}),
        (SPECIAL["nested"], {"nested"}),
        (SPECIAL["jagged"], {"subclass", "wrapper", "jagged"}),
        (SPECIAL["COO"], {"sparse"}),
        (SPECIAL["BSR"], {"sparse"}),
        (SPECIAL["quantized"], {"quantized"}),
        (SPECIAL["opaque"], {"opaque"}),
        (PLAIN["complex"], {"complex"}),
        (PLAIN["empty"], {"empty"}),
        (PLAIN["expanded"], {"overlapping"}),
    ],
)
def test_the_further_kinds_are_told(make: Make, traits: set[str]) -> None:
    assert set(gradprobe.inspect(make()).traits) == traits


def test_samples_inside_vmap_and_grad_are_told_with_what_fails_there() -> None:
    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(gradprobe.inspect(x))
        for problem in seen[-1].problems:
            assert error_of(ACTIONS[problem.what], x) == problem.error, problem.what
        return x.sum()

    seen: list[Inspection] = []
    torch.vmap(look)(torch.rand(2, 3))
    torch.func.grad(look)(torch.rand(3))
    torch.vmap(torch.func.grad(look))(torch.rand(2, 3))
    assert [set(one.traits) for one in seen] == [{"vmap"}, {"transform"}, {"transform"}]
    assert all(one.problems for one in seen)


@needs_saved
@pytest.mark.parametrize("inside", ["inference_mode", "grad", "jvp", "vmap", "functionalize"])
def test_the_first_look_of_a_process_may_be_taken_anywhere(inside: str) -> None:
    looks: dict[str, Callable[[Callable[[Any], Any], torch.Tensor], Any]] = {
        "inference_mode": lambda look, x: torch.inference_mode()(look)(x),
        "grad": lambda look, x: torch.func.grad(look)(x),
        "jvp": lambda look, x: torch.func.jvp(look, (x,), (x,)),
        "vmap": lambda look, x: torch.vmap(look)(x),
        "functionalize": lambda look, x: torch.func.functionalize(look)(x),
    }

    def look(x: torch.Tensor) -> torch.Tensor:
        gradprobe.inspect(x)
        return x.sum()

    ownership._baseline.cache_clear()
    looks[inside](look, torch.ones(3))

    weight = torch.rand(1000, requires_grad=True)
    hidden = weight.exp()
    loss = (hidden * weight).sum()
    del hidden
    assert gradprobe.inspect(loss).graph_bytes == 4000


def test_dual_numbers_are_told_without_a_new_node() -> None:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(needing_grad(), torch.rand(2, 3))
        with unchanged(dual):
            assert "dual" in gradprobe.inspect(dual).traits
        assert "dual" not in gradprobe.inspect(needing_grad()).traits
    assert "dual" not in gradprobe.inspect(needing_grad()).traits


def test_subclasses_and_modes_hear_nothing() -> None:
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

    loud, coo = PLAIN["subclass"](), SPECIAL["COO"]()
    before = Loud.heard
    with Functions(), Operators():
        gradprobe.inspect(loud)
        gradprobe.inspect(coo)
    assert heard == []
    assert Loud.heard == before


@pytest.mark.parametrize("name", ["normal", "leaf", "computed", "view", "inference", "freed"])
def test_the_result_does_not_keep_the_tensor_alive(name: str) -> None:
    tensor = PLAIN[name]()
    reference = weakref.ref(tensor)
    gc.disable()
    try:
        seen = gradprobe.inspect(tensor)
        del tensor
        assert reference() is None
    finally:
        gc.enable()
    assert str(seen)


class Array:
    def __dlpack__(self) -> None: ...


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1], ["a list", "one by one"]),
        (None, ["NoneType", "torch.Tensor"]),
        (nn.Linear(1, 1), ["Linear", "parameters()"]),
        (Array(), ["Array", "from_dlpack"]),
    ],
)
def test_what_is_not_a_tensor_is_refused_with_what_to_do(value: Any, words: list[str]) -> None:
    with pytest.raises(gradprobe.InvalidArgument) as caught:
        gradprobe.inspect(value)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_a_numpy_array_is_refused_with_what_to_do() -> None:
    numpy = pytest.importorskip("numpy")
    with pytest.raises(gradprobe.GradprobeError, match=r"numpy\.ndarray.*from_numpy"):
        gradprobe.inspect(numpy.ones(3))


def test_the_text_tells_the_error_and_the_fix() -> None:
    text = str(gradprobe.inspect(PLAIN["inference"]()))
    assert "An inference tensor" in text
    assert "Inference tensors cannot be saved for backward" in text
    assert "t.clone()" in text


def test_the_notebook_form_escapes_what_a_program_named() -> None:
    named = type("<script>", (torch.Tensor,), {})
    page = gradprobe.inspect(torch.rand(2).as_subclass(named))._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "Fix" in gradprobe.inspect(PLAIN["inference"]())._repr_html_()


def test_where_it_was_made_is_told_if_a_recorder_saw_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "unknown: no recorder saw it" in str(gradprobe.inspect(torch.rand(2)))
    site = CreationSite("aten.mul", "train.py", 12, "step", "encoder.0")
    monkeypatch.setattr("gradprobe.capture.autograd.creation.creation_site", lambda tensor: site)
    seen = gradprobe.inspect(torch.rand(2))
    assert seen.born == site
    assert "train.py:12 in step, by aten.mul in module encoder.0" in str(seen)


@pytest.mark.parametrize("manager", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_it_answers_the_same_in_every_mode(manager: Any) -> None:
    for name in ("leaf", "computed", "inference", "view under no_grad"):
        tensor = PLAIN[name]()
        outside = gradprobe.inspect(tensor)
        with manager(), unchanged(tensor):
            assert gradprobe.inspect(tensor) == outside


class Refuses(torch.Tensor):
    """Answers every question of this kind with an error of its own."""

    @property
    def grad_fn(self) -> Any:  # type: ignore[override]
        raise ValueError("asked")

    shape = dtype = device = grad_fn  # type: ignore[assignment]

    def _is_view(self) -> bool:
        raise KeyError("asked")

    is_inference = numel = untyped_storage = _is_view  # type: ignore[assignment]


class Flat(torch.Tensor):
    """Stands for another tensor, and does not say which."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Flat:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)  # type: ignore[attr-defined, no-any-return]

    def __tensor_flatten__(self) -> Any:
        raise ValueError("asked")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return torch.zeros(3)


@needs_saved
def test_what_a_subclass_answers_itself_is_not_asked_of_it() -> None:
    seen = gradprobe.inspect(torch.rand(3).as_subclass(Refuses))
    assert seen.description == "Refuses of shape (3,), torch.float32, on cpu"
    assert seen.storage_bytes == 12
    assert gradprobe.inspect((needing_grad()[0] * torch.rand(3).as_subclass(Refuses)).sum()).saved_bytes == 12


@needs_saved
def test_a_saved_wrapper_that_does_not_tell_what_it_holds_counts_as_unread() -> None:
    assert gradprobe.inspect((torch.rand(3, requires_grad=True) * Flat(torch.rand(3))).sum()).unread == 1


def test_what_only_pretends_to_be_a_tensor_is_refused() -> None:
    with pytest.raises(gradprobe.GradprobeError, match=r"must be a torch\.Tensor, got a unittest\.mock\.Mock"):
        gradprobe.inspect(Mock(spec=torch.Tensor))
