"""Watching operators changes nothing: results, errors, lifetimes, calls of the program's own hooks, the mode stacks."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import gradprobe

LEVELS = ["modes", "graph", "ops"]


@contextmanager
def watching(level: str) -> Iterator[gradprobe.Recording]:
    """Records, and fails if anything of ours went wrong meanwhile."""
    with gradprobe.record(level=level) as recording:
        yield recording
    assert [n for n in recording.tables.contents[0].notes if n[0] == "fault"] == []


def bits(value: Any) -> Any:
    """What a result is, to the bit, with what PyTorch notes about each tensor."""
    if isinstance(value, torch.Tensor):
        plain = value.detach()
        raw = plain.numpy().tobytes() if type(plain) is torch.Tensor and plain.layout is torch.strided else repr(plain)
        version = None if value.is_inference() else value._version
        return raw, value.dtype, value.requires_grad, value.is_inference(), version, value._is_view()
    if isinstance(value, list | tuple):
        return [bits(item) for item in value]
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    return value


def outcome(program: Callable[[], Any]) -> Any:
    """What a program gives, or how it fails, with its warnings."""
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
    *(weights_are_changed_by(make) for make in OPTIMIZERS),
]


def name_of(value: Any) -> str:
    return str(getattr(value, "__name__", value))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("program", MODIFIED, ids=name_of)
def test_a_saved_tensor_that_was_changed_is_noticed_with_the_same_words(
    program: Callable[[], None], level: str
) -> None:
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
def test_what_fails_in_an_operator_fails_with_the_same_words(program: Callable[[], Any], level: str) -> None:
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
def test_a_checkpointed_stretch_is_computed_again_as_often(reentrant: bool, level: str) -> None:
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
def test_tensors_die_where_they_die_unwatched(level: str) -> None:
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
def test_what_is_saved_lives_no_longer_than_unwatched(level: str) -> None:
    """Of saved tensors the graph holds others of the same storage: the node tells whether they are there."""

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
def test_watching_makes_no_reference_cycle(level: str) -> None:
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
