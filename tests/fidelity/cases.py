"""Programs of PyTorch's whole breadth, each to be run watched and not watched: one name, one callable.

A case makes all that it needs from a fixed seed, so that it does the same each time it is called, and gives what is to be
compared: tensors in any nesting, and plain values.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import sys
import tempfile
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import _pytree

from tests.fidelity.kinds import KINDS
from tests.fidelity.test_watching_changes_nothing import PROGRAMS

Case = tuple[str, Callable[[], Any]]
MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
_SAMPLES = 2


def operators(share: int) -> Iterator[Case]:
    """Yield one in ``share`` of PyTorch's operator samples: forward in each mode, in place, and backward."""
    from torch.testing._internal import common_methods_invocations as database

    foreach = [database.foreach_unary_op_db, database.foreach_binary_op_db, database.foreach_other_op_db]
    chosen = [*database.op_db[::share], *(one for group in foreach for one in group[::share])]
    for operator in chosen:
        # What an uninitialised tensor holds is chance.
        if torch.float32 not in operator.supported_dtypes("cpu") or "empty" in operator.name:
            continue
        calls = [operator.op]
        if operator.inplace_variant is not None:
            calls.append(functools.partial(_changed_copy, operator.inplace_variant))
        for number, sample in enumerate(_samples(operator)):
            for variant, call in enumerate(calls):
                for name, mode in MODES.items():
                    case = functools.partial(_operator, call, sample, mode, name == "grad")
                    yield f"{operator.name} {number}{' in place' if variant else ''}, {name}", case


def _samples(operator: Any) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(operator.sample_inputs("cpu", torch.float32, requires_grad=operator.supports_autograd))[:_SAMPLES]


def _changed_copy(change: Callable[..., Any], first: Any, *args: Any, **kwargs: Any) -> Any:
    """Call an in-place operator on copies, as samples may be leaves."""
    return change(_pytree.tree_map(torch.clone, first), *args, **kwargs)


def _operator(call: Callable[..., Any], sample: Any, mode: Any, backward: bool) -> Any:
    def copied(value: Any) -> Any:
        is_tensor = isinstance(value, torch.Tensor)
        return value.detach().clone().requires_grad_(value.requires_grad) if is_tensor else value

    inputs = _pytree.tree_map(copied, (sample.input, sample.args, sample.kwargs))
    first, args, kwargs = inputs
    with mode():
        result = call(first, *args, **kwargs)
    if backward:
        _backward(result)
    return result, inputs, [leaf.grad for leaf in _pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]


def _backward(result: Any) -> None:
    outputs = [t for t in _pytree.tree_leaves(result) if isinstance(t, torch.Tensor) and t.requires_grad]
    outputs = [t for t in outputs if t.layout == torch.strided and (t.is_floating_point() or t.is_complex())]
    if outputs:
        torch.autograd.backward(outputs, [torch.ones_like(t) for t in outputs])


def modules(share: int) -> Iterator[Case]:
    """Yield one in ``share`` of PyTorch's module samples, in training and in evaluation."""
    from torch.testing._internal.common_modules import module_db

    for info in module_db[::share]:
        for training in (True, False):
            yield f"{info.name}{'' if training else ', eval'}", functools.partial(_module, info, training)


def _module(info: Any, training: bool) -> Any:
    found = []
    inputs = info.module_inputs_func(info, "cpu", torch.float32, requires_grad=True, training=training)
    for one in inputs[:_SAMPLES]:
        if one.forward_input is None:
            continue
        module = info.module_cls(*one.constructor_input.args, **one.constructor_input.kwargs).train(training)
        result = module(*one.forward_input.args, **one.forward_input.kwargs)
        _backward(result)
        found.append((result, [p.grad for p in module.parameters()], dict(module.named_buffers())))
    return found


def refusals(share: int) -> Iterator[Case]:
    """Yield one in ``share`` of the samples that operators and modules must refuse by an error or warning."""
    from torch.testing._internal import common_methods_invocations as database
    from torch.testing._internal.common_modules import module_db

    for operator in database.op_db[::share]:
        if operator.error_inputs_func is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                samples = [one.sample_input for one in operator.error_inputs("cpu")]
            for number, sample in enumerate(samples):
                yield (
                    f"{operator.name} {number}",
                    functools.partial(_operator, operator.op, sample, MODES["grad"], False),
                )
    for info in module_db[::share]:
        refuse = info.module_error_inputs_func or (lambda *_, **__: [])
        inputs = refuse(info, device="cpu", dtype=torch.float32, requires_grad=False, training=False)
        for number, one in enumerate(inputs):
            yield f"{info.name} {number}", functools.partial(_refusing, info.module_cls, one.module_error_input)


def _refusing(module: Any, given: Any) -> Any:
    made = module(*given.constructor_input.args, **given.constructor_input.kwargs)
    return made(*given.forward_input.args, **given.forward_input.kwargs)


def programs(share: int) -> Iterator[Case]:
    """Yield whole programs, all of them for any share."""
    others = (autocast, sparse, nested, subclass, fake, compiled, complex_views, distributed, large)
    for program in (*PROGRAMS, *others, *ODD):
        yield program.__name__, program


def kinds(share: int) -> Iterator[Case]:
    """Yield programs of kinds that other ways of observing would crash or change, all of them for any share."""
    for program in KINDS:
        yield program.__name__, program


def autocast() -> Any:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2))
    with torch.autocast("cpu", torch.bfloat16):
        result = model(torch.randn(4, 8))
    result.float().sum().backward()
    return result, [p.grad for p in model.parameters()]


def sparse() -> Any:
    x = torch.randn(4, 4).relu().to_sparse().requires_grad_()
    weight = torch.randn(4, 3, requires_grad=True)
    torch.sparse.mm(x, weight).sum().backward()
    assert x.grad is not None
    return weight.grad, x.grad.to_dense()


def nested() -> Any:
    rows = [torch.randn(n, 3, requires_grad=True) for n in (2, 4)]
    made = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
    (made * 2).values().sum().backward()
    return [row.grad for row in rows]


class Tagged(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


def subclass() -> Any:
    x = torch.randn(3).as_subclass(Tagged).requires_grad_()
    y = (x * 2).sin()
    y.sum().backward()
    with torch.inference_mode():
        z = x + 1
    return type(y).__name__, type(z).__name__, torch.Tensor(y.detach()), x.grad


def fake() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.randn(4, 8, requires_grad=True)
        y = torch.nn.Linear(8, 3)(x).relu()
        y.sum().backward()
        with torch.no_grad():
            z = y * 2
    return [tuple(t.shape) for t in (y, z, x.grad)], y.requires_grad, z.requires_grad


def compiled() -> Any:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    @torch.compile(backend="aot_eager")
    def function(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = x * 2
        torch._dynamo.graph_break()
        return (y * x).sin()

    x = torch.randn(4, requires_grad=True)
    y = function(x)
    y.sum().backward()
    with torch.no_grad():
        z = function(x)
    breaks = dict(torch._dynamo.utils.counters["graph_break"])
    frames = dict(torch._dynamo.utils.counters["frames"])
    torch._dynamo.reset()
    return y, z, x.grad, sum(breaks.values()), frames


def complex_views() -> Any:
    x = torch.randn(4, 2, requires_grad=True)
    z = torch.view_as_complex(x * 1)
    z.mul_(2)
    torch.view_as_real(z * z).sum().backward()
    return x.grad


def distributed() -> Any:
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    if not (dist.is_available() and dist.is_gloo_available()):
        return None
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{os.path.join(folder, 'store')}", rank=0, world_size=1)
        try:
            model = DistributedDataParallel(torch.nn.Linear(4, 2))
            model(torch.randn(3, 4)).sum().backward()
            total = torch.ones(2)
            with torch.no_grad():
                dist.all_reduce(total)
            return [p.grad for p in model.parameters()], total
        finally:
            dist.destroy_process_group()


def large() -> Any:
    """Tensors that each show in the peak, of which few live at once."""
    x, weight = torch.ones(512, 512), torch.ones(512, 512, requires_grad=True)
    for _ in range(6):
        x = (x @ weight).tanh()[:, :512].detach()
    loss = ((x * weight).relu().view(-1).exp() * 2).sum()
    loss.backward()
    with torch.no_grad():
        for _ in range(6):
            x = x.add(1).mul_(2).t().contiguous()
    with torch.inference_mode():
        for _ in range(6):
            x = (x * 2).t() + 1
    return x, weight.grad


def modes() -> tuple[bool, bool]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


def steps(manager: Any) -> Iterator[tuple[bool, bool]]:
    with manager():
        yield modes()
        yield modes()


def block_closed_by_the_collector_in_another_thread() -> Any:
    found = []
    for manager in (torch.no_grad, torch.enable_grad):
        suspended = [steps(manager)]
        found += [next(suspended[0]), modes()]
        thread = threading.Thread(target=suspended.clear)
        thread.start()
        thread.join()
        found.append(modes())
        torch.set_grad_enabled(True)
    return found


def blocks_left_by_exceptions_of_exits() -> Any:
    class Fails:
        def __enter__(self) -> None: ...

        def __exit__(self, *_: Any) -> None:
            raise ValueError("in the exit")

    found: list[Any] = []
    for manager in MODES.values():
        try:
            with manager(), Fails(), manager():
                raise KeyError("in the block")
        except ValueError as error:
            found += [str(error), type(error.__context__).__name__, modes()]
        suspended = steps(manager)
        next(suspended)
        with contextlib.suppress(IndexError):
            suspended.throw(IndexError("at the yield"))
        found.append(modes())
    return found


def modes_entered_by_the_collector_and_by_finalizers() -> Any:
    weight, found = torch.ones(2, requires_grad=True), []

    def collecting(*_: Any) -> None:
        with torch.no_grad():
            found.append(modes())
        with torch.inference_mode():
            weight * 2

    class Dropped: ...

    was_enabled = gc.isenabled()
    gc.disable()  # when it runs by itself depends on how many objects there are, the recording's among them
    gc.callbacks.append(collecting)
    try:
        with torch.no_grad():
            gc.collect()
        total = (weight * 2).sum()
        dropped = Dropped()
        weakref.finalize(dropped, collecting)
        with torch.inference_mode():
            del dropped
        gc.collect()
        total.backward()
    finally:
        gc.callbacks.remove(collecting)
        if was_enabled:
            gc.enable()
    return found[:4], weight.grad, modes()


def modes_under_a_debugger() -> Any:
    lines: list[str] = []

    def trace(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename == __file__:
            lines.append(f"{frame.f_code.co_name} {frame.f_lineno} {event}")
        return trace

    weight = torch.ones(2, requires_grad=True)
    sys.settrace(trace)
    try:
        with torch.no_grad():
            with torch.enable_grad():
                result = weight * 2
        with torch.inference_mode():
            product = weight * 2
        with contextlib.suppress(RuntimeError):
            (product * weight).sum().backward()
        is_there = sys.gettrace() is trace
    finally:
        sys.settrace(None)
    return result, is_there, *lines


ODD = (
    block_closed_by_the_collector_in_another_thread,
    blocks_left_by_exceptions_of_exits,
    modes_entered_by_the_collector_and_by_finalizers,
    modes_under_a_debugger,
)

FAMILIES: dict[str, Callable[[int], Iterator[Case]]] = {
    "operators": operators,
    "modules": modules,
    "refusals": refusals,
    "programs": programs,
    "kinds": kinds,
}
