"""Recording operators changes no result, error, lifetime, call of the program's hooks, or mode stack."""

from __future__ import annotations

import asyncio
import copy
import gc
import io
import pickle
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

import gradprobe
from gradprobe.capture.ops.native.loader import load_core

LEVELS = ["modes", "graph", "ops"]


@contextmanager
def watching(level: str) -> Iterator[gradprobe.Recording]:
    """Record, and fail if an error of gradprobe occurs."""
    with gradprobe.record(level=level) as recording:
        yield recording
    assert [n for n in recording._tables.contents[0].notes if n[0] == "fault"] == []


def bits(value: Any) -> Any:
    """Return a result as bits, with the properties of each tensor.

    Of tensors without a gradient the version is left out: knowing of any dispatch mode, some of PyTorch's formulas for
    gradients write to no fresh tensor that they made themselves, and so give it another version to begin with.
    """
    if isinstance(value, torch.Tensor):
        plain = value.detach()
        raw = plain.numpy().tobytes() if type(plain) is torch.Tensor and plain.layout is torch.strided else repr(plain)
        version = value._version if value.requires_grad else None
        return raw, value.dtype, value.requires_grad, value.is_inference(), version, value._is_view()
    if isinstance(value, list | tuple):
        return [bits(item) for item in value]
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    return value


def outcome(program: Callable[[], Any]) -> Any:
    """Return the result or the error of a program, with its warnings."""
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = bits(program())
        except Exception as error:
            result = type(error), str(error)
    return result, [str(w.message) for w in caught]


def compare(program: Callable[[], Any], level: str) -> Any:
    """Holds a watched run of ``program`` to an unwatched one, and gives the outcome."""
    outcome(program)  # some warnings come once per process
    alone = outcome(program)
    with watching(level):
        watched = outcome(program)
    assert watched == alone
    assert outcome(program) == alone, "and it is as it was afterwards"
    return alone[0]


# Errors.


def saved_input_is_changed() -> None:
    x = torch.ones(3, requires_grad=True).clone()
    y = x * x
    x.mul_(2)
    y.sum().backward()


def saved_output_is_changed() -> None:
    y = torch.ones(3, requires_grad=True).exp()
    y.add_(1)
    y.sum().backward()


def saved_tensor_is_changed_through_a_view() -> None:
    x = torch.ones(3, requires_grad=True).clone()
    y = x * x
    x.view(3, 1)[1:].t().zero_()
    y.sum().backward()


def saved_base_of_a_detached_view_is_changed() -> None:
    x = torch.ones(3, requires_grad=True).clone()
    y = x.sin()
    x.detach()[0] = 5
    y.sum().backward()


def saved_tensors_are_changed_by_foreach() -> None:
    xs = [torch.ones(3, requires_grad=True).clone() for _ in range(3)]
    y = torch.stack([x * x for x in xs])
    torch._foreach_mul_(xs, 2)
    y.sum().backward()


def saved_tensor_is_changed_without_grad() -> None:
    w = torch.ones(3, requires_grad=True)
    y = w * w
    with torch.no_grad():
        w.add_(1)
    y.sum().backward()


def saved_tensor_is_changed_under_inference_mode() -> None:
    w = torch.ones(3, requires_grad=True)
    y = w * w
    with torch.inference_mode():
        w.add_(1)
    y.sum().backward()


def saved_tensor_is_written_as_out() -> None:
    w = torch.ones(3)
    y = torch.ones(3, requires_grad=True) * w
    torch.add(w, 1, out=w)
    y.sum().backward()


def saved_tensor_is_changed_by_a_composite_operator() -> None:
    w = torch.ones(3, 3)
    y = torch.ones(3, 3, requires_grad=True) * w
    w.fill_diagonal_(7).clamp_(0, 1).index_fill_(0, torch.tensor([0]), 2)
    y.sum().backward()


def weights_are_changed_by(make: Callable[..., torch.optim.Optimizer]) -> Callable[[], None]:
    def program() -> None:
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
        optimizer = make(model.parameters())
        model(torch.ones(2, 3)).sum().backward()
        loss = model(torch.ones(2, 3)).sum()
        optimizer.step()
        loss.backward()

    program.__name__ = f"weights_are_changed_between_forward_and_backward_{make.__name__}"
    return program


def sgd_foreach(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, foreach=True)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, foreach=False)


def adam_foreach(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.1, foreach=True)


def adam_fused(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.1, fused=True)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.1, foreach=False, fused=False)


OPTIMIZERS = [sgd, sgd_foreach, adam, adam_foreach, adam_fused]
MODIFIED = [
    saved_input_is_changed,
    saved_output_is_changed,
    saved_tensor_is_changed_through_a_view,
    saved_base_of_a_detached_view_is_changed,
    saved_tensors_are_changed_by_foreach,
    saved_tensor_is_changed_without_grad,
    saved_tensor_is_changed_under_inference_mode,
    saved_tensor_is_written_as_out,
    saved_tensor_is_changed_by_a_composite_operator,
    *(weights_are_changed_by(make) for make in OPTIMIZERS if make is not adam_fused),  # which PyTorch does not notice
]


def name_of(value: Any) -> str:
    return str(getattr(value, "__name__", value))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("program", MODIFIED, ids=name_of)
def test_modified_saved_tensor_error(program: Callable[[], None], level: str) -> None:
    """A modified saved tensor raises the same error."""
    kind, text = compare(program, level)
    assert kind is RuntimeError
    assert "modified by an inplace operation" in text


def shapes_do_not_fit() -> torch.Tensor:
    return torch.ones(2, 3, requires_grad=True) @ torch.ones(2, 3)


def leaf_is_changed() -> None:
    torch.ones(3, requires_grad=True).add_(1)


def view_of_leaf_is_changed() -> None:
    torch.ones(3, requires_grad=True)[0].zero_()


def one_of_several_views_is_changed() -> None:
    torch.ones(3, 3, requires_grad=True).clone().unbind(0)[0].zero_()


def inference_tensor_is_changed() -> None:
    with torch.inference_mode():
        x = torch.ones(3)
    x.add_(1)


def inference_tensor_is_saved() -> None:
    with torch.inference_mode():
        x = torch.ones(3)
    (torch.ones(3, requires_grad=True) * x).sum()


def index_is_out_of_range() -> None:
    torch.nn.functional.embedding(torch.tensor([7]), torch.ones(3, 3))


def no_such_dtype_for_kernel() -> None:
    torch.ones(3, dtype=torch.bool).softmax(0)


def backward_twice() -> None:
    y = torch.ones(3, requires_grad=True).exp().sum()
    y.backward()
    y.backward()


def function_fails_in_forward() -> None:
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("on purpose")

    Failing.apply(torch.ones(3, requires_grad=True))


def function_fails_in_backward() -> None:
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
            raise KeyError("on purpose")

    Failing.apply(torch.ones(3, requires_grad=True)).sum().backward()


def hook_fails() -> None:
    x = torch.ones(3, requires_grad=True)
    x.register_hook(lambda grad: 1 / 0)
    x.exp().sum().backward()


def anomaly_is_found() -> None:
    with torch.autograd.detect_anomaly(check_nan=True):
        x = torch.zeros(1, requires_grad=True)
        (x.sqrt() * 0).sum().backward()


FAILING = [
    shapes_do_not_fit,
    leaf_is_changed,
    view_of_leaf_is_changed,
    one_of_several_views_is_changed,
    inference_tensor_is_changed,
    inference_tensor_is_saved,
    index_is_out_of_range,
    no_such_dtype_for_kernel,
    backward_twice,
    function_fails_in_forward,
    function_fails_in_backward,
    hook_fails,
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("program", FAILING, ids=name_of)
def test_operator_errors(program: Callable[[], Any], level: str) -> None:
    """Errors of operators have the same text."""
    kind, _ = compare(program, level)
    assert issubclass(kind, Exception)


@pytest.mark.parametrize("level", LEVELS)
def test_anomaly_detection_names_the_same_node(level: str) -> None:
    def program() -> None:
        try:
            anomaly_is_found()
        except RuntimeError as error:
            raise RuntimeError(str(error)) from None

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RuntimeError) as alone:
            program()
        with watching(level), pytest.raises(RuntimeError) as watched:
            program()
    assert str(watched.value) == str(alone.value)


# Results.


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("fast", [True, False], ids=["fast path", "slow path"])
@pytest.mark.parametrize("manager", [torch.no_grad, torch.inference_mode, nullcontext], ids=name_of)
def test_a_transformer_encoder_gives_the_same_bits(manager: Any, fast: bool, level: str) -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=True).eval()
    x, mask = torch.randn(2, 5, 16), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast)
    taken: list[Any] = []

    def program() -> Any:
        with manager():
            return model(x), model(x, src_key_padding_mask=mask)

    try:
        compare(program, level)
        if level == "ops":
            with watching(level) as recording:
                program()
            taken += list(recording.ops["op"])
            expected = fast and manager is not nullcontext
            assert ("aten._transformer_encoder_layer_fwd" in taken) is expected
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("make", OPTIMIZERS, ids=name_of)
def test_training_gives_the_same_gradients_weights_and_state(make: Any, level: str) -> None:
    def program() -> Any:
        model = torch.nn.Sequential(
            torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU(inplace=True), torch.nn.Flatten(),
            torch.nn.Dropout(0.5), torch.nn.Linear(72, 3),
        )  # fmt: skip
        optimizer = make(model.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(torch.randn(4, 1, 8, 8)), torch.tensor([0, 1, 2, 0]))
            loss.backward()
            optimizer.step()
        state = [value for known in optimizer.state.values() for value in known.values()]
        return [p.grad for p in model.parameters()], list(model.parameters()), state, list(model.buffers())

    compare(program, level)


@pytest.mark.parametrize("level", LEVELS)
def test_function_transforms_give_the_same(level: str) -> None:
    model = torch.nn.Linear(3, 3)
    weights = dict(model.named_parameters())

    def loss(weights: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, weights, (x,)).sin().sum()

    def program() -> Any:
        x = torch.randn(4, 3)
        return [
            torch.func.grad(loss)(weights, x),
            torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x),
            torch.func.jacrev(torch.sin)(x),
            torch.func.jacfwd(lambda t: t.cos() * t)(x),
            torch.func.hessian(lambda t: (t**3).sum())(x[0]),
            torch.func.vmap(lambda t: t.add_(1))(x.clone()),
            torch.func.jvp(lambda t: t.view(-1).exp(), (x,), (x,)),
            torch.func.functionalize(lambda t: t.clone().mul_(2))(x),
            torch.func.linearize(torch.sin, x)[1](x),
        ]

    compare(program, level)


@pytest.mark.parametrize("level", LEVELS)
def test_forward_mode_gives_the_same(level: str) -> None:
    def program() -> Any:
        x, model = torch.randn(3), torch.nn.Linear(3, 3)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, torch.ones(3))
            out = model(dual).exp()
            out.mul_(2)
            view = out.view(3, 1)[0]
            found = [*forward_ad.unpack_dual(out), *forward_ad.unpack_dual(view)]
            with torch.no_grad():
                found += list(forward_ad.unpack_dual(dual * dual))
            return [t.clone() for t in found if t is not None]

    compare(program, level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_checkpoint_recomputed_as_often(reentrant: bool, level: str) -> None:
    """A checkpointed segment is recomputed as often."""

    def program() -> Any:
        calls: list[bool] = []
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5), torch.nn.Linear(3, 3))

        def stretch(x: torch.Tensor) -> torch.Tensor:
            calls.append(torch.is_grad_enabled())
            out: torch.Tensor = model(x).exp()
            return out

        x = torch.randn(3, requires_grad=True)
        y = checkpoint(stretch, checkpoint(stretch, x, use_reentrant=reentrant), use_reentrant=reentrant)
        y.sum().backward(retain_graph=not reentrant)
        if not reentrant:
            y.sum().backward()
        unused = checkpoint(stretch, x, use_reentrant=reentrant)
        del unused
        return calls, x.grad, [p.grad for p in model.parameters()]

    found = compare(program, level)
    assert len(found[0]) > 3


# Lifetimes.


@contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("level", LEVELS)
def test_tensor_lifetimes(level: str) -> None:
    """Tensors are freed where they are freed without a recording."""

    def program() -> list[Any]:
        seen: list[Any] = []
        alive: list[tuple[str, weakref.ref[Any]]] = []

        def look(where: str, **tensors: Any) -> None:
            alive.extend((name, weakref.ref(t)) for name, t in tensors.items())
            del tensors
            seen.append((where, [name for name, ref in alive if ref() is not None]))

        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 3))
        look("model", model=model, weight=model[0].weight)
        x = torch.randn(2, 3)
        h = model(x)
        look("forward", x=x, h=h)
        del x
        look("x is gone")
        h = h.exp()
        look("h is another", other=h)
        view = h.view(-1)[1:]
        look("view", view=view)
        del view
        look("view is gone")
        h = h + 0
        h.mul_(2)
        h.t().add_(1)
        torch._foreach_mul_([h, h.detach()], 1)
        look("in place")
        h = torch.stack([h, h]).sum()
        look("loss", loss=h)
        h.backward()
        look("backward", grad=model[0].weight.grad)
        with torch.no_grad():
            y = model(torch.ones(3))
            look("no grad", y=y)
            y = y + 1
            look("no grad, another")
        with torch.inference_mode():
            z = model(torch.ones(3))
            look("inference", z=z)
            z = z[0]
            look("inference, a view", zz=z)
        del h, model, y, z
        look("all")
        return seen

    with without_collector():
        alone = program()
        assert alone[-1] == ("all", [])
        with watching(level):
            watched = program()
    assert watched == alone


@pytest.mark.parametrize("level", LEVELS)
def test_saved_tensor_lifetimes(level: str) -> None:
    """The graph keeps other tensor objects over saved storages; the node shows whether they exist."""

    class Token:
        pass

    class Keeping(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, token: Token) -> torch.Tensor:
            ctx.token = token
            ctx.save_for_backward(x)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
            return grads[0] * ctx.saved_tensors[0], None

    def program() -> list[bool]:
        token = Token()
        ref = weakref.ref(token)
        x = torch.ones(3, requires_grad=True)
        y = Keeping.apply(x.exp(), token)
        del token
        found = [ref() is not None]
        loss = (y * 2).sum()
        del y
        found.append(ref() is not None)
        loss.backward()
        found.append(ref() is not None)
        del loss
        found.append(ref() is not None)
        return found

    with without_collector():
        alone = program()
        with watching(level):
            watched = program()
    assert watched == alone
    assert alone[-1] is False


@pytest.mark.parametrize("level", LEVELS)
def test_a_failed_operator_keeps_no_tensor(level: str) -> None:
    def program() -> list[bool]:
        def fail() -> tuple[Exception, weakref.ref[Any]]:
            x = torch.ones(2, 3)
            try:
                x @ torch.ones(2, 3)
            except RuntimeError as error:
                return error, weakref.ref(x)
            raise AssertionError

        error, ref = fail()
        # The traceback of the error holds the frame of `fail`, and that its variable; nothing else does.
        assert error.__traceback__ is not None
        error.__traceback__.tb_frame.clear()
        return [ref() is not None]

    with without_collector():
        alone = program()
        with watching(level):
            watched = program()
    assert alone == watched == [False]


@pytest.mark.parametrize("level", LEVELS)
def test_no_reference_cycle(level: str) -> None:
    """Recording makes no reference cycle."""

    def program() -> None:
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
        model(torch.randn(2, 3)).sum().backward()
        optimizer.step()
        with torch.inference_mode():
            model(torch.randn(2, 3))
        with torch.no_grad():
            model(torch.randn(2, 3))

    def garbage() -> int:
        gc.collect()
        program()
        return gc.collect()

    program()
    alone = garbage()
    with gradprobe.record(level=level):
        garbage()
        assert garbage() <= alone
    assert garbage() <= alone


# What the program itself puts between its operators and PyTorch.


class Listening(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.heard.append(str(func))
        return func(*args, **(kwargs or {}))


class Calling(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.heard.append(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


def modes_on_the_stack() -> list[Any]:
    return [torch._C._get_dispatch_stack_at(i) for i in range(torch._C._len_torch_dispatch_stack())]


def some_operators() -> Any:
    x = torch.arange(6.0).view(2, 3).clone().requires_grad_()
    y = torch.nn.functional.linear(x, torch.ones(4, 3)).softmax(-1)
    y.sum().backward()
    with torch.no_grad():
        x.mul_(2)
    with torch.inference_mode():
        z = torch.einsum("ij,kj->ik", x, x).clone()
    return y, x.grad, x, z


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mode", [Listening, Calling])
def test_program_mode_sees_the_same(mode: Any, level: str) -> None:
    """A mode of the program sees the same inside and around a recording."""
    with mode() as listening:
        expected = bits(some_operators())
    alone = listening.heard
    with watching(level), mode() as inside:
        assert bits(some_operators()) == expected
    assert inside.heard == alone
    recorder = gradprobe.record(level=level)
    with mode() as around:
        recorder.start()
        found = bits(some_operators())
        recorder.stop()
    assert found == expected
    assert [heard for heard in around.heard if heard in alone] == alone
    assert modes_on_the_stack() == []


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", [Listening, lambda: torch._subclasses.FakeTensorMode()], ids=["dispatch", "fake"])
def test_the_stack_of_modes_is_the_programs_alone(kind: Any, level: str) -> None:
    one, two = Listening(), kind()
    recorder = gradprobe.record(level=level)
    with one:
        recorder.start()
        with two:
            torch.ones(2)
            assert set(modes_on_the_stack()) == {one, two}
            recorder.stop()
            assert set(modes_on_the_stack()) == {one, two}
        assert modes_on_the_stack() == [one]
    assert modes_on_the_stack() == []


@pytest.mark.parametrize("level", LEVELS)
def test_after_recordings_that_overlap_nothing_is_observed(level: str) -> None:
    first, second = gradprobe.record(level=level), gradprobe.record(level="ops")
    first.start()
    second.start()
    torch.ones(2)
    first.stop()
    torch.ones(2)
    second.stop()
    assert not load_core().is_key_included()


@pytest.mark.parametrize("level", LEVELS)
def test_saved_tensor_hooks_called_as_often(level: str) -> None:
    def program() -> Any:
        calls: list[str] = []

        def pack(x: torch.Tensor) -> torch.Tensor:
            calls.append(f"pack {tuple(x.shape)}")
            return x * 1

        def unpack(x: torch.Tensor) -> torch.Tensor:
            calls.append(f"unpack {tuple(x.shape)}")
            return x

        x = torch.randn(3, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            y = (x.exp() * x).view(3, 1).sin()
            z = Doubled.apply(y)
        z.sum().backward()
        with torch.autograd.graph.save_on_cpu():
            (x * x).sum().backward()
        return calls, x.grad

    assert len(compare(program, level)[0]) > 8


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0] * 2 + 0 * ctx.saved_tensors[0]


@pytest.mark.parametrize("level", LEVELS)
def test_fake_tensors_stay_fake(level: str) -> None:
    def program() -> Any:
        with torch._subclasses.FakeTensorMode() as fake:
            model = torch.nn.Linear(3, 4)
            y = model(torch.ones(2, 3))
            y.sum().backward()
            kept = fake.from_tensor(torch.ones(3))
            with torch.no_grad():
                kept.add_(1)
            with torch.inference_mode():
                z = model(torch.ones(2, 3))
            assert model.weight.grad is not None
            return [(type(t).__name__, tuple(t.shape), t.requires_grad) for t in (y, kept, z, model.weight.grad)]

    assert {name for name, *_ in compare(program, level)} == {"FakeTensor"}


class Wrapping(torch.Tensor):
    """Holds another tensor, and hears of every operator."""

    heard: list[str] = []  # noqa: RUF012

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Any:
        make: Any = torch.Tensor._make_wrapper_subclass  # type: ignore[attr-defined]
        return make(cls, inner.shape, dtype=inner.dtype, requires_grad=inner.requires_grad)

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner.detach()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        Wrapping.heard.append(str(func))
        args, kwargs = tree_map(lambda v: v.inner if isinstance(v, Wrapping) else v, (args, kwargs or {}))
        return tree_map(lambda v: Wrapping(v) if isinstance(v, torch.Tensor) else v, func(*args, **kwargs))


class Named(torch.Tensor):
    heard: list[str] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        Named.heard.append(getattr(func, "__name__", str(func)))
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("level", LEVELS)
def test_dispatch_subclass_sees_the_same(level: str) -> None:
    """A subclass with ``__torch_dispatch__`` sees the same."""

    def program() -> Any:
        Wrapping.heard.clear()
        x = Wrapping(torch.ones(2, 3, requires_grad=True))
        y = (x * 2).view(3, 2).exp()
        y.sum().backward()
        z: Any = y.detach() + 1
        z.add_(1)
        with torch.inference_mode():
            torch.nn.functional.linear(z, Wrapping(torch.ones(4, 2)))
        grad: Any = x.grad
        return list(Wrapping.heard), type(grad).__name__, bits(grad.inner), bits(z.inner)

    assert compare(program, level)[0]


@pytest.mark.parametrize("level", LEVELS)
def test_function_subclass_sees_the_same(level: str) -> None:
    """A subclass with ``__torch_function__`` sees the same."""

    def program() -> Any:
        Named.heard.clear()
        x = torch.ones(2, 3).as_subclass(Named).requires_grad_()
        y = (x * 2).view(3, 2).exp()
        y.add_(0) if not y.requires_grad else None
        (y + 0).mul_(2).sum().backward()
        with torch.inference_mode():
            z = (y @ x).t()
        return list(Named.heard), type(z).__name__, z.tolist(), type(x.grad).__name__

    assert compare(program, level)[0]


# Other kinds of tensors and programs.


@pytest.mark.parametrize("level", LEVELS)
def test_nested_and_sparse_tensors_give_the_same(level: str) -> None:
    def program() -> Any:
        x = torch.randn(3, 3, requires_grad=True)
        sparse = x.to_sparse()
        nested = torch.nested.as_nested_tensor([x, x[:2]], layout=torch.jagged)
        strided = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(1, 3)])
        out = torch.sparse.mm(sparse, torch.ones(3, 2)).sum() + (nested * 2).values().sum()
        out.backward()
        with torch.inference_mode():
            dense = torch.nested.to_padded_tensor(strided.clone() * 2, 0.0).clone()
        csr = torch.eye(3).to_sparse_csr()
        return out, x.grad, dense, torch.ones(2, 3) @ csr.to_dense(), sparse.detach().coalesce().values()

    compare(program, level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("manager", [torch.no_grad, torch.inference_mode, nullcontext], ids=name_of)
def test_inside_composite_operators(manager: Any, level: str) -> None:
    """Composite operators reach a dispatch mode whole in inference mode; their parts must act as usual."""

    def program() -> Any:
        a, b = torch.randn(2, 3, 3)
        z = torch.randn(4, 4, dtype=torch.complex64)
        linear, lstm = torch.nn.Linear(16, 48), torch.nn.LSTM(3, 4)
        with manager():
            with torch.autocast("cpu", torch.bfloat16):
                cast = torch.einsum("ij,jk->ik", a, b).float(), str(torch.einsum("ij,jk->ik", a, b).dtype)
                cast += lstm(a)[0].float(), linear(torch.randn(2, 16)).float()
            # Of a weight's transpose, which asks for a gradient, the product is folded; else it is rounded otherwise.
            folded = linear(torch.randn(2, 5, 16).transpose(0, 1)).clone()  # its version differs as those of gradients
            conjugates = torch.fft.hfftn(z), torch.einsum("ij,jk->ik", z.conj(), z.conj()).abs(), z.mH.matmul(z).abs()
            return [cast, folded, *conjugates, torch.linalg.pinv(z).abs()]

    compare(program, level)


@pytest.mark.parametrize("level", LEVELS)
def test_a_condition_runs_eagerly_as_unwatched(level: str) -> None:
    from torch._higher_order_ops.cond import cond_op

    def program() -> Any:
        x = torch.arange(3.0)
        return [cond_op(p, lambda t: (t.sin(),), lambda t: (t.cos(),), (x,)) for p in (True, False)]

    compare(program, level)


@pytest.mark.parametrize("level", LEVELS)
def test_threads_give_the_same(level: str) -> None:
    def work(number: int, found: dict[int, Any]) -> None:
        x = torch.full((3, 3), float(number), requires_grad=True)
        for _ in range(20):
            (x @ x).sum().backward()
            with torch.inference_mode():
                x @ x
        found[number] = bits(x.grad), len(modes_on_the_stack())

    def program() -> Any:
        found: dict[int, Any] = {}
        threads = [threading.Thread(target=work, args=(number, found)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [found[number][0] for number in range(4)]

    compare(program, level)


class Squares(torch.utils.data.Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        if modes_on_the_stack() and torch.utils.data.get_worker_info() is not None:
            raise AssertionError("a worker is not watched")
        return torch.tensor(float(index)) ** 2


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("level", LEVELS)
def test_a_data_loader_gives_the_same(level: str, workers: int) -> None:
    def program() -> Any:
        loader = torch.utils.data.DataLoader(Squares(), batch_size=2, shuffle=True, num_workers=workers)
        return [batch.tolist() for batch in loader]

    compare(program, level)


@pytest.mark.parametrize("level", LEVELS)
def test_models_copied_and_saved(level: str) -> None:
    """Models are copied, pickled, saved and loaded the same."""

    def program() -> Any:
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
        x = torch.ones(2, 3)
        model(x).sum().backward()
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        saved = len(file.getvalue())
        file.seek(0)
        loaded = copy.deepcopy(model)
        loaded.load_state_dict(torch.load(file))
        copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded
        # A pickle has the addresses of storages in decimal digits, so its length may differ.
        return saved, [(c(x), [p.grad for p in c.parameters()]) for c in copies]

    compare(program, level)


@pytest.mark.parametrize("level", LEVELS)
def test_torchscript_gives_the_same(level: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU())

    def program() -> Any:
        x = torch.randn(2, 3, requires_grad=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.jit.script(model), torch.jit.trace(model, x)
        return [(one.code, one(x), torch.autograd.grad(one(x).sum(), x)) for one in made]

    compare(program, level)


@pytest.mark.parametrize("level", LEVELS)
def test_tasks_give_the_same(level: str) -> None:
    async def task(number: int) -> torch.Tensor:
        x = torch.full((3,), float(number), requires_grad=True)
        y = x * 2
        await asyncio.sleep(0)
        y = y.exp()
        await asyncio.sleep(0)
        with torch.no_grad():
            x.add_(1)
        y.sum().backward()
        assert x.grad is not None
        return x.grad

    async def program() -> list[torch.Tensor]:
        return list(await asyncio.gather(*map(task, range(3))))

    compare(lambda: asyncio.run(program()), level)


# The compiler.


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def with_graph_break(x: torch.Tensor) -> torch.Tensor:
    y = x.sin() * 2
    torch._dynamo.graph_break()
    return (y.exp() @ y).relu()


def whole(x: torch.Tensor) -> torch.Tensor:
    y = x.view(-1).mul(2)
    y[0] = 1
    return (y.view(3, 3) @ x).relu()


@pytest.mark.parametrize("first_watched", [True, False], ids=["first watched", "first unwatched"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("function", [with_graph_break, whole], ids=name_of)
@pytest.mark.parametrize("level", ["graph", "ops"])
@pytest.mark.usefixtures("fresh_compiler")
def test_the_compiler_makes_the_same_graphs_once(function: Any, backend: str, first_watched: bool, level: str) -> None:
    inner = torch._dynamo.lookup_backend(backend)
    graphs: list[str] = []

    def counting(module: Any, inputs: Any) -> Any:
        graphs.append(module.code)
        return inner(module, inputs)

    def program(compiled: Any) -> Any:
        x = torch.arange(9.0).view(3, 3).clone().requires_grad_()
        y = compiled(x)
        y.sum().backward()
        return bits(y), bits(x.grad)

    expected = program(torch.compile(function, backend=counting))
    alone = list(graphs)
    torch._dynamo.reset()
    graphs.clear()
    compiled = torch.compile(function, backend=counting)
    for watched in (first_watched, not first_watched, first_watched):
        if watched:
            with watching(level):
                assert program(compiled) == expected
        else:
            assert program(compiled) == expected
    assert graphs == alone


@pytest.mark.parametrize("level", LEVELS)
def test_tensors_can_be_swapped(level: str) -> None:
    """Tensors can be swapped while recording, and parameters afterwards."""
    with watching(level):
        a, b = torch.ones(3), torch.zeros(3)
        torch.utils.swap_tensors(a, b)
        layer = torch.nn.Linear(2, 2)
        held = torch.zeros(3)
        kept = weakref.ref(held)
        with pytest.raises(RuntimeError, match="has weakref associated with it"):
            torch.utils.swap_tensors(a, held)
    assert kept() is held
    assert a.sum() == 0
    torch.utils.swap_tensors(layer.weight, torch.nn.Parameter(torch.ones(2, 2)))
    assert layer.weight.sum() == 4
