"""Programs that make PyTorch raise each message of the table of refusals.

The comments ``# ROLE`` name the lines that an explanation must point at; ``# at`` is the finding's own line.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import distributed
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

Program = Callable[[], object]
PROGRAMS: dict[str, list[Program]] = {}
"""Programs by the key of the row whose message they raise."""


def raises(key: str) -> Callable[[Program], Program]:
    """Add a program to those of a row."""

    def add(program: Program) -> Program:
        PROGRAMS.setdefault(key, []).append(program)
        return program

    return add


def leaf(*shape: int) -> torch.Tensor:
    return torch.ones(shape or (3,), requires_grad=True)


def table() -> torch.Tensor:
    with torch.inference_mode():  # mode
        return torch.ones(3)  # created


@raises("inference-saved")
def inference_saved() -> None:
    weight, cached = leaf(), table()
    weight * cached  # at


@raises("inference-modified")
def inference_modified() -> None:
    cached = table()
    cached.add_(1)  # at


@raises("inference-version")
def inference_version() -> None:
    cached = table()
    torch.autograd._unsafe_preserve_version_counter(cached)  # at


@raises("inference-requires-grad")
def inference_requires_grad() -> None:
    cached = table()
    cached.requires_grad_()  # at


@raises("inference-requires-grad")
def inference_flag() -> None:
    cached = table()
    cached.requires_grad = True  # at


@raises("inference-subclass-view")
def inference_subclass_view() -> None:
    jagged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    with torch.inference_mode():  # mode
        jagged.unsqueeze(-1)  # at


@raises("saved-modified")
def saved_modified() -> None:
    hidden = leaf().exp()  # saved
    hidden.add_(1)  # at
    hidden.sum().backward()  # backward


@raises("saved-modified")
def saved_modified_after_another_backward() -> None:
    weight, other = leaf(), leaf()
    loss = (weight * weight).sum()  # saved
    other.exp().sum().backward()
    with torch.no_grad():
        weight.mul_(2)  # at
    loss.backward()  # backward


@raises("saved-modified")
def saved_modified_between_two_backwards_of_one_graph() -> None:
    layer = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD([layer.weight], lr=0.1)
    loss = layer(leaf(2)).sum()  # saved
    loss.backward(retain_graph=True)
    optimizer.step()  # at
    loss.backward()  # backward


@raises("view-of-several")
def view_of_several() -> None:
    rows = leaf(2, 3) * 1  # base
    first, _ = rows.unbind()  # view
    first.add_(1)  # at


class Viewing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view(3)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


@raises("view-of-function")
def view_of_function() -> None:
    out = Viewing.apply(leaf() * 1)
    out.add_(1)  # at


@raises("view-under-mode")
def view_under_mode() -> None:
    base = leaf(3, 2) * 1  # base
    with torch.no_grad():  # mode
        view = base[0]  # view
    view.add_(1)  # at


@raises("leaf-modified")
def leaf_modified() -> None:
    weight = torch.ones(3, requires_grad=True)  # created
    weight.mul_(0.9)  # at


@raises("leaf-modified")
def view_of_leaf_modified() -> None:
    weight = torch.ones(3, requires_grad=True)
    weight[0] = 0  # at


@raises("view-detached")
def view_detached() -> None:
    base = leaf(3, 2) * 1  # base
    row = base[0]  # view
    row.detach_()  # at


@raises("saved-detached")
def saved_detached() -> None:
    hidden = leaf() * 2
    out = hidden.sin().sum()  # created
    hidden.detach_()
    out.backward()  # at


@raises("memory-shared")
def memory_shared() -> None:
    wide = torch.ones(3).expand(2, 3)  # view
    wide.add_(1)  # at


@raises("data-replaced")
def data_replaced() -> None:
    weight = torch.ones(3, requires_grad=True)  # created
    weight.data = torch.ones(3, dtype=torch.long)  # at


@raises("grad-resized")
def grad_resized() -> None:
    weight = torch.ones(3, requires_grad=True)  # created
    weight.resize_(7)  # at


@raises("out-argument")
def out_argument() -> None:
    weight = torch.ones(3, requires_grad=True)  # created
    torch.add(weight, 1, out=torch.ones(3))  # at


@raises("graph-freed")
def graph_freed() -> None:
    hidden = leaf().exp()
    shared = hidden.square()  # built
    shared.sum().backward()  # freed
    shared.mean().backward()  # at again


@raises("graph-freed")
def graph_freed_by_a_carried_state() -> None:
    weight, state = leaf(), torch.zeros(3)
    for _ in range(2):
        state = torch.tanh(state + weight)  # built again
        state.sum().backward()  # at


@raises("graph-freed")
def graph_freed_by_grad() -> None:
    weight = leaf()
    loss = weight.square().sum()  # built
    torch.autograd.grad(loss, weight)  # freed
    torch.autograd.grad(loss, weight)  # at


class ReadingTwice(torch.autograd.Function):
    clear_saved_tensors_on_access = True

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * ctx.saved_tensors[0] * ctx.saved_tensors[0]


@raises("saved-read-twice")
def saved_read_twice() -> None:
    ReadingTwice.apply(leaf()).sum().backward()


@raises("no-graph-at-root")
def no_graph_under_a_mode() -> None:
    weight = leaf()
    with torch.no_grad():  # mode
        output = weight * 2  # lost
    loss = output.sum()  # created
    loss.backward()  # at


@raises("no-graph-at-root")
def no_graph_after_detach() -> None:
    hidden = leaf().exp().detach()  # lost
    loss = (hidden * 2).sum()  # created
    loss.backward()  # at


@raises("no-graph-at-root")
def no_graph_after_numbers() -> None:
    loss = torch.tensor(leaf().sum().item())  # created
    loss.backward()  # at


@raises("no-graph-at-root")
def no_graph_of_an_inference_tensor() -> None:
    cached = table()
    loss = cached.sum()  # created
    torch.autograd.backward([loss])  # at


@raises("no-graph-at-root")
def no_graph_after_argmax() -> None:
    scores = leaf()
    best = scores.argmax().float()  # created
    best.backward()  # at


@raises("no-graph-at-root")
def no_graph_of_a_frozen_module() -> None:
    model = torch.nn.Linear(3, 1).requires_grad_(False)
    loss = model(torch.ones(3)).sum()  # created
    loss.backward()  # at


@raises("no-graph-at-root")
def no_graph_of_a_critic_that_stays_frozen() -> None:
    maker, critic = torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)
    for _ in range(2):
        made = maker(torch.ones(2, 3))
        scores = critic(made.detach())  # lost
        loss = torch.nn.functional.mse_loss(scores, torch.zeros_like(scores))  # created
        loss.backward()  # at
        critic.requires_grad_(False)  # frozen
        critic(made).mean().backward()


@raises("no-graph-at-root")
def no_graph_of_weights_that_were_frozen_in_between() -> None:
    weights = [torch.nn.Parameter(torch.ones(3, 3)), torch.nn.Parameter(torch.ones(3))]

    def loss_of(x: torch.Tensor) -> torch.Tensor:
        hidden = x @ weights[0]
        return (hidden.tanh() @ weights[1]).sum()  # created

    def freeze(tensors: list[torch.nn.Parameter], flag: bool) -> None:
        for tensor in tensors:
            tensor.requires_grad_(flag)

    for _ in range(2):
        loss_of(torch.ones(2, 3)).backward()  # at
        freeze(weights, False)  # frozen


@raises("no-graph-at-root")
def no_graph_of_a_loss_of_another_function() -> None:
    def loss_of(weight: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():  # mode
            return weight.square().sum()  # created

    loss_of(leaf()).backward()  # at


@raises("no-gradient-edge")
def no_gradient_edge() -> None:
    torch.autograd.graph.get_gradient_edge(torch.ones(3))


@raises("input-unused")
def input_unused() -> None:
    points = leaf()
    moved = points * 2  # input
    energy = points.square().sum()  # result
    torch.autograd.grad(energy, moved)  # at


@raises("input-without-grad")
def input_without_grad() -> None:
    points = torch.ones(3)  # input
    energy = (points * leaf()).sum()  # result
    torch.autograd.grad(energy, points)  # at


@raises("no-inputs")
def no_inputs() -> None:
    parameters = iter([leaf()])
    list(parameters)
    torch.autograd.grad(leaf().sum(), list(parameters))  # at


@raises("root-not-scalar")
def root_not_scalar() -> None:
    loss = leaf() * 2  # created
    loss.backward()  # at


@raises("gradient-does-not-fit")
def gradient_of_another_shape() -> None:
    leaf().sum().backward(torch.ones(2))  # at


@raises("gradient-does-not-fit")
def gradient_assigned() -> None:
    weight = leaf()
    weight.grad = torch.ones(4)  # at


@raises("derivative-missing")
def derivative_missing() -> None:
    loss = torch.special.gammainc(leaf(), torch.ones(3)).sum()  # forward
    loss.backward()  # at


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * 2


@raises("derivative-only-once")
def derivative_only_once() -> None:
    weight = leaf()
    (gradient,) = torch.autograd.grad(Once.apply(weight).square().sum(), weight, create_graph=True)
    gradient.sum().backward()  # at


@raises("nan-in-anomaly-mode")
def nan_in_anomaly_mode() -> None:
    with torch.autograd.set_detect_anomaly(True):
        loss = (torch.zeros(3, requires_grad=True).sqrt() * 0).sum()  # forward
        loss.backward()  # at


@raises("flag-of-result")
def flag_of_result() -> None:
    hidden = leaf() * 2  # created
    hidden.requires_grad = False  # at


@raises("flag-of-integers")
def flag_of_integers() -> None:
    index = torch.arange(3)  # created
    index.requires_grad_()  # at


@raises("hook-without-grad")
def retained_without_grad() -> None:
    hidden = leaf().exp().detach()  # created
    hidden.retain_grad()  # at


@raises("hook-without-grad")
def hook_without_grad() -> None:
    with torch.no_grad():  # mode
        hidden = leaf().exp()  # created
    hidden.register_hook(print)  # at


@raises("grad-of-result")
def hook_of_result() -> None:
    hidden = leaf().exp()  # created
    hidden.register_post_accumulate_grad_hook(print)  # at


@raises("deepcopy-of-result")
def deepcopy_of_result() -> None:
    layer = torch.nn.Linear(3, 3)
    layer.last = layer(torch.ones(3))  # created
    copy.deepcopy(layer)  # at


@raises("parameter-from-result")
def optimized_result() -> None:
    weight = leaf() * 0.1  # created
    torch.optim.SGD([weight], lr=0.1)  # at


@raises("parameter-from-result")
def parameter_from_result() -> None:
    layer = torch.nn.Linear(3, 3)
    scaled = (layer.weight * 2).as_subclass(torch.nn.Parameter)
    layer.register_parameter("scaled", scaled)  # at


@raises("tensor-for-parameter")
def tensor_for_parameter() -> None:
    layer = torch.nn.Linear(3, 3)
    layer.weight = layer.weight * 2  # type: ignore[assignment]


@raises("exported")
def to_numpy() -> None:
    weight = torch.ones(3, requires_grad=True)  # created
    weight.numpy()  # at


@raises("exported")
def to_dlpack() -> None:
    weight = torch.ones(3, requires_grad=True)  # created
    torch.from_dlpack(weight)  # at


@raises("sent-to-process")
def sent_to_process() -> None:
    hidden = leaf() * 2
    torch.multiprocessing.reductions.reduce_tensor(hidden)


def counting_block() -> Callable[[torch.Tensor], torch.Tensor]:
    calls: list[int] = []

    def block(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return (x * x).exp() if len(calls) == 1 else x * x

    return block


@raises("recomputation-differs")
def recomputation_differs() -> None:
    output = checkpoint(counting_block(), leaf(), use_reentrant=False)
    output.sum().backward()  # at


@raises("checkpoint-with-inputs")
def checkpoint_with_inputs() -> None:
    weight = leaf()
    output = checkpoint(torch.exp, weight, use_reentrant=True)
    torch.autograd.grad(output.sum(), weight)  # at


@raises("checkpoint-without-grad")
def checkpoint_without_grad() -> None:
    output = checkpoint(lambda x: x.detach() * 2, leaf(), use_reentrant=True)
    output.sum().backward()  # at


class SavedTwice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * len(ctx.saved_tensors) * len(ctx.saved_tensors)


@raises("checkpoint-read-twice")
def checkpoint_read_twice() -> None:
    output = checkpoint(SavedTwice.apply, leaf(), use_reentrant=False)
    output.sum().backward()


class Partly(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.used(x)


class Reentrant(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> Any:
        once = checkpoint(self.shared, self.first(x), use_reentrant=True)
        return checkpoint(self.shared, once, use_reentrant=True)


@contextlib.contextmanager
def one_rank() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@raises("reduction-unfinished")
def reduction_unfinished() -> None:
    with one_rank():
        model = DistributedDataParallel(Partly())
        model(torch.ones(2)).sum().backward()
        model(torch.ones(2))  # at


@raises("ready-twice")
def ready_twice() -> None:
    with one_rank():
        model = DistributedDataParallel(Reentrant())
        model(torch.ones(2)).sum().backward()  # at


@raises("wrapper-misused")
def wrapper_without_parameters() -> None:
    with one_rank():
        DistributedDataParallel(torch.nn.ReLU())


@raises("backward-in-transform")
def backward_in_transform() -> None:
    torch.func.grad(lambda x: x.requires_grad_().sum())(torch.ones(3))  # at


@raises("modified-in-transform")
def modified_in_transform() -> None:
    total = torch.zeros(())
    torch.func.grad(lambda x: total.add_(x.sum()))(torch.ones(3))  # at


@raises("value-in-transform")
def value_in_transform() -> None:
    torch.vmap(lambda x: x * 2 if x.sum() > 0 else x)(torch.ones(2, 3))  # at


@raises("function-in-transform")
def function_in_transform() -> None:
    torch.func.grad(lambda x: Once.apply(x).sum())(torch.ones(3))


@raises("transform-result")
def transform_result() -> None:
    torch.func.grad(lambda x: x * 2)(torch.ones(3))


@raises("no-forward-level")
def no_forward_level() -> None:
    forward_ad.make_dual(torch.ones(3), torch.ones(3))


@raises("no-forward-derivative")
def no_forward_derivative() -> None:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.ones(3), torch.ones(3))
        torch.special.gammainc(dual, torch.ones(3))  # at


@raises("forward-gradient-does-not-fit")
def forward_gradient_does_not_fit() -> None:
    with forward_ad.dual_level():
        forward_ad.make_dual(torch.ones(3), torch.ones(2))  # at


def function(
    forward: Callable[..., Any], backward: Callable[..., Any] = lambda ctx, gradient: gradient
) -> Callable[..., Any]:
    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    made: Any = type("Custom", (torch.autograd.Function,), methods)
    apply: Callable[..., Any] = made.apply
    return apply


@raises("forward-gradient-of-function")
def forward_gradient_of_function() -> None:
    methods = {
        "forward": staticmethod(lambda ctx, x: x * 2),
        "jvp": staticmethod(lambda ctx, tangent: (tangent, tangent)),
    }
    made: Any = type("Custom", (torch.autograd.Function,), methods)
    with forward_ad.dual_level():
        made.apply(forward_ad.make_dual(torch.ones(3), torch.ones(3)))


@raises("number-of-gradients")
def number_of_gradients() -> None:
    custom = function(lambda ctx, x, factor: x * factor)
    custom(leaf(), 2.0).sum().backward()  # at


@raises("gradient-shape")
def gradient_shape() -> None:
    custom = function(lambda ctx, x: x * 2, lambda ctx, gradient: gradient[:2])
    output = custom(leaf())
    output.sum().backward()  # at


@raises("context-misused")
def context_misused() -> None:
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, 2.0)
        return x * 2

    function(forward)(leaf())


@raises("function-incomplete")
def function_incomplete() -> None:
    class Forward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    Forward.apply(leaf()).sum().backward()  # at


@raises("hook-result")
def hook_result() -> None:
    hidden = leaf() * 2
    hidden.register_hook(lambda gradient: gradient[:2])
    hidden.sum().backward()  # at


@raises("saved-tensor-hook")
def saved_tensor_hook() -> None:
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: 1):
        loss = leaf().exp().sum()
    loss.backward()  # at
