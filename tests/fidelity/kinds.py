"""Programs of the kinds that a dispatch mode would crash or change: subclasses and their constructors, tracing and export,
hooks on saved tensors, custom operators, profilers, lazy modules and tensors, deep graphs.

As a script it prints what each of them returns, unwatched and at every level, with gradprobe's own errors.
"""

from __future__ import annotations

import contextlib
import io
import json
import threading
import weakref
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import return_and_correct_aliasing

LEVELS: tuple[Literal["modes", "graph", "ops"], ...] = ("modes", "graph", "ops")


def _error(call: Callable[[], Any]) -> str:
    """Return the error of ``call``, or the type of what it returns."""
    try:
        return type(call()).__name__
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"


# Subclasses


class Plain(torch.Tensor):
    """A subclass that overrides nothing."""


class Wrapper(torch.Tensor):
    """A subclass that holds another tensor, as quantised tensors do."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Wrapper:
        made: Wrapper = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)  # type: ignore[attr-defined]
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inner = torch.utils._pytree.tree_map_only(Wrapper, lambda one: one.inner, (args, kwargs or {}))
        result = torch.utils._pytree.tree_map_only(torch.Tensor, Wrapper, func(*inner[0], **inner[1]))
        return return_and_correct_aliasing(func, args, kwargs or {}, result)


class Reentrant(torch.Tensor):
    """A subclass whose operators call others, for which dispatch to Python is on again."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch.overrides.enable_reentrant_dispatch():
            torch.zeros(2).add_(torch.rand(2))
        with torch.utils._mode_utils.no_dispatch():
            return func(*args, **(kwargs or {}))


def constructors_of_subclasses() -> Any:
    ways: list[Callable[[], Any]] = [
        lambda: Plain([[1.0], [2.0]]),
        lambda: Plain(2, 3),
        lambda: Plain(torch.ones(2)),
        lambda: torch.Tensor.__new__(Plain, [1.0, 2.0]),
        lambda: torch.Tensor._make_subclass(Plain, torch.ones(2), True),
        lambda: torch.ones(2).as_subclass(Plain).sum(),
        lambda: nn.Parameter(torch.ones(2).as_subclass(Plain)),
        lambda: nn.Parameter(torch.ones(2, dtype=torch.int64)),
    ]
    return [_error(way) for way in ways]


def wrapper_subclass() -> Any:
    with torch.no_grad():
        x = Wrapper(torch.arange(6.0).view(2, 3))
        y = (x.t() + 1).relu_().t()
    with torch.inference_mode():
        z = x * 2
    return type(y).__name__, y.inner, type(z).__name__, z.inner


def reentrant_dispatch() -> Any:
    x = torch.Tensor._make_subclass(Reentrant, torch.arange(3.0))
    return [_error(lambda: x.neg()), _error(lambda: x.add_(1)), _error(lambda: torch.cat([x, x]))]


# Tracing and export


class Detector(nn.Module):
    """A convolutional network whose anchors depend on the size of the picture, as in detection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.SiLU(), nn.MaxPool2d(2))
        self.head = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)])

    def forward(self, picture: torch.Tensor, offset: float | None = None) -> torch.Tensor:
        features = self.stem(picture)
        boxes, scores = (head(features).flatten(2) for head in self.head)
        height, width = features.shape[-2:]
        anchors = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).flatten(1)
        moved = boxes + torch.cat([anchors, anchors]) + (0.0 if offset is None else offset)
        return torch.cat([moved, scores.sigmoid()], 1)


def _pictures() -> tuple[Detector, torch.Tensor, torch.Tensor]:
    return Detector().eval(), torch.randn(1, 3, 16, 16), torch.randn(1, 3, 16, 16)


def tracing() -> Any:
    model, one, other = _pictures()
    found = []
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            traced = torch.jit.trace(model, one, check_trace=mode is torch.no_grad)
            found += [traced(other), sorted({node.kind() for node in traced.inlined_graph.nodes()})]
    return found


def tracing_for_export() -> Any:
    model, one, other = _pictures()
    file = io.BytesIO()
    with torch.no_grad():
        torch.jit.save(torch.jit.freeze(torch.jit.trace(model, one)), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    return loaded(one), loaded(other), torch.equal(loaded(other), model(other))


def tracing_of_tasks() -> Any:
    traced = torch.jit.trace(torch.sin, torch.ones(3))

    def forks(x: torch.Tensor) -> Any:
        return torch.jit._wait(torch.jit._fork(traced, x)) + 1

    return _error(lambda: torch.jit.trace(forks, torch.ones(3))(torch.zeros(3)))


def export() -> Any:
    model, one, other = _pictures()
    sizes = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    exported = torch.export.export(model, (one,), dynamic_shapes=(sizes,))
    with torch.no_grad():
        larger = exported.module()(torch.randn(1, 3, 32, 24))
        decomposed = exported.run_decompositions()
    called = [[str(node.target) for node in program.graph.nodes] for program in (exported, decomposed)]
    return called, larger, exported.module()(other)


def symbolic_tracing() -> Any:
    from torch.fx.experimental.proxy_tensor import make_fx

    def step(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        (gradient,) = torch.autograd.grad((x @ weight).relu().sum(), weight)
        with torch.no_grad():
            return weight - gradient

    # Of a size of which PyTorch has seen no other: it makes sizes of 0 and 1 constants, and equal ones the same symbol.
    x, weight = torch.randn(4, 3), torch.randn(3, 2, requires_grad=True)
    found: list[Any] = []
    for mode in ("real", "fake", "symbolic"):
        made = make_fx(step, tracing_mode=mode)(x, weight)
        found += [[str(node.target) for node in made.graph.nodes], made(x, weight)]
    return found, torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 2), nn.ReLU()))(x)


# Hooks on saved tensors


def hooks_that_run_operators() -> Any:
    """Hooks that are given to one saved tensor, of which one packs by an operator."""
    x = torch.arange(1.0, 4.0, requires_grad=True)
    packed: list[int] = []
    y = (x * x).exp()
    y.grad_fn.next_functions[0][0]._raw_saved_other.register_hooks(  # type: ignore[union-attr]
        lambda saved: (packed.append(saved._version), saved * 4)[1], lambda kept: kept / 4
    )
    y.sum().backward()
    return packed, x.grad


def hooks_around_a_block() -> Any:
    x, weight = torch.randn(3, 4, requires_grad=True), torch.randn(4, 4, requires_grad=True)
    shapes: list[tuple[int, ...]] = []

    def pack(saved: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(saved.shape))
        return saved.detach().to(torch.float64)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.to(torch.float32)):
        y = (x @ weight).tanh() * x
    with torch.autograd.graph.save_on_cpu():
        z = y.sigmoid() * y
    with torch.autograd.graph.disable_saved_tensors_hooks("none here"):
        z = z.cos()
    refused = _error(lambda: torch.autograd.graph.disable_saved_tensors_hooks("no").__enter__())
    z.sum().backward()
    return shapes, x.grad, weight.grad, refused


def hooks_that_modify_what_they_are_given() -> Any:
    x = torch.ones(2, requires_grad=True)
    y = x.clone() * x
    node: Any = y.grad_fn
    return _error(lambda: node._raw_saved_self.register_hooks(lambda saved: saved.add_(1), lambda kept: kept))


# Custom operators


_library = torch.library.Library("gradprobe_kinds", "DEF")


@torch.library.custom_op("gradprobe_kinds::turned", mutates_args=(), schema="(Tensor(a) x) -> Tensor(a)")
def turned(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(0, 1)


@torch.library.custom_op("gradprobe_kinds::scale", mutates_args=("x",))
def scale(x: torch.Tensor, by: float) -> None:
    x.mul_(by)


turned.register_autograd(lambda ctx, gradient: gradient.transpose(0, 1).clone())


def operators_of_libraries() -> Any:
    x = torch.randn(2, 3, requires_grad=True)
    y = turned(x)
    y.cos().sum().backward()
    z = torch.ones(3)
    with torch.no_grad():
        scale(z, 2.0)
    with torch.inference_mode():
        inside = turned(torch.ones(2, 3))
        scale(inside, 3.0)
    return y, x.grad, z, inside, _error(lambda: torch.library.opcheck(scale, (torch.ones(2), 2.0)))


def fallback_in_python() -> Any:
    """Operators whose kernel for a key is a function that runs them with the key excluded."""
    key = "TESTING_ONLY_GenericMode"
    keys = torch._C.DispatchKeySet(key)
    include = torch._C._dispatch_tls_local_include_set() | keys
    exclude = torch._C._dispatch_tls_local_exclude_set()
    called = []

    def fall_back(op: Any, *args: Any, **kwargs: Any) -> Any:
        called.append(str(op))
        with torch._C._ForceDispatchKeyGuard(include, exclude | keys):
            return op(*args, **kwargs)

    with torch.library._scoped_library("_", "IMPL") as library:
        library.fallback(fall_back, key)  # type: ignore[no-untyped-call]
        with torch._C._ForceDispatchKeyGuard(include, exclude):
            x = torch.ones(2) + torch.full((2,), 2.0)
    return called, x


# Profilers


def profiled() -> Any:
    """Counts of a profile: an operator that is called once is counted once."""
    x = torch.randn(4, 4, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profiler:
        with torch.no_grad():
            y = x.t().contiguous()
        ((x + y).relu() @ y).sum().backward()
    counts = {row.key: row.count for row in profiler.key_averages() if row.key.startswith(("aten::", "autograd::"))}
    with torch.autograd.profiler.profile() as older:
        torch.nn.functional.linear(x, y).sum()
    return counts, {row.key: row.count for row in older.key_averages() if row.key.startswith("aten::")}


def gradients_taken_over() -> Any:
    """A sparse gradient that nothing else holds becomes the ``.grad`` of one of two leaves, without a copy."""
    made: list[int] = []

    class Sum(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
            made.append(gradient._values().data_ptr())
            return gradient, gradient

    leaves = [torch.randn(8, 2, requires_grad=True) for _ in range(2)]
    rows = torch.tensor([0, 3, 3, 7])
    nn.functional.embedding_bag(rows, Sum.apply(*leaves), torch.tensor([0, 2]), sparse=True).sum().backward()
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    return bool(made) and made[0] in [gradient._values().data_ptr() for gradient in gradients]


# Lazy modules and tensors


def lazy_modules() -> Any:
    model = nn.Sequential(nn.LazyConv1d(4, 3), nn.LazyBatchNorm1d(), nn.Flatten(), nn.LazyLinear(2))
    names = [type(module).__name__ for module in model]
    with torch.no_grad():
        model(torch.randn(2, 3, 8))
    model(torch.randn(2, 3, 8)).sum().backward()
    return names, [type(module).__name__ for module in model], [p.grad for p in model.parameters()]


def lazy_tensors() -> Any:
    import torch._lazy.ts_backend

    with contextlib.suppress(RuntimeError):  # it was initialised before
        torch._lazy.ts_backend.init()
    x = torch.ones(2, 3, device="lazy")
    found = [_error(lambda: x.mul_(2)), _error(lambda: torch.add(x, 1, out=torch.empty(2, 3, device="lazy")))]
    found += [_error(lambda: x.t()), _error(lambda: x[0].add_(1)), _error(lambda: x.view(-1).relu())]
    with torch.no_grad():
        found.append(_error(lambda: x.t().mul_(2)))
    return found, x.cpu()


# Graphs


def deep_graphs() -> Any:
    """A chain of nodes that is freed in a thread whose stack is too small to free it by recursion."""
    freed: list[str] = []

    def chain() -> None:
        y = torch.randn(1, requires_grad=True).clone()
        for _ in range(5_000):
            y = y + y * 0.5
        del y
        freed.append(threading.current_thread().name)

    size = threading.stack_size(1 << 18)
    try:
        thread = threading.Thread(target=chain, name="other")
        thread.start()
        thread.join()
    finally:
        threading.stack_size(size)
    return freed


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * 2


def _describe_and_ask(x: torch.Tensor) -> str:
    y = x.exp() if torch.is_grad_enabled() else x.sin()
    z = y + 1
    return "{x.shape} {y.dtype} {z.requires_grad}".format(**locals())


def locals_of_functions_that_ask() -> Any:
    x = torch.ones(3, requires_grad=True)
    ref = weakref.ref(x)
    seen = [_describe_and_ask(x)]
    with torch.no_grad():
        seen.append(_describe_and_ask(x))
    del x
    return seen, ref() is None


def backwards_that_are_refused() -> Any:
    """A backward that reaches a node whose sequence number is the largest that there is."""
    x = torch.ones(3, requires_grad=True)
    (gradient,) = torch.autograd.grad(Once.apply(x).pow(2).sum(), x, create_graph=True)
    return _error(lambda: gradient.sum().backward()), x.grad


KINDS = (
    constructors_of_subclasses,
    wrapper_subclass,
    reentrant_dispatch,
    tracing,
    tracing_for_export,
    tracing_of_tasks,
    export,
    symbolic_tracing,
    hooks_that_run_operators,
    hooks_around_a_block,
    hooks_that_modify_what_they_are_given,
    operators_of_libraries,
    fallback_in_python,
    profiled,
    gradients_taken_over,
    lazy_modules,
    lazy_tensors,
    deep_graphs,
    locals_of_functions_that_ask,
    backwards_that_are_refused,
)


def _as_text(value: Any) -> str:
    leaves = torch.utils._pytree.tree_leaves(value)
    return repr([one.tolist() if isinstance(one, torch.Tensor) else one for one in leaves])


def main() -> None:
    """Print name, level, result and faults of each program as it ends, in a line of JSON."""
    import gradprobe

    for program in KINDS:
        torch.manual_seed(0)
        print(json.dumps([program.__name__, None, _as_text(program()), []]), flush=True)
        for level in LEVELS:
            torch.manual_seed(0)
            with gradprobe.record(level=level) as recording:
                result = program()
            faults = [note for note in recording._tables.contents[0].notes if note[0] == "fault"]
            print(json.dumps([program.__name__, level, _as_text(result), faults]), flush=True)


if __name__ == "__main__":
    main()
