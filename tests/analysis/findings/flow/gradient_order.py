"""Gradients that are changed or taken at the wrong time or by hooks, and programs that look alike and are right."""

from __future__ import annotations

import torch
from torch import nn

from tests.analysis.findings.flow.parts import Net, Program, batches, sgd, step


def clipped_after_step() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        optimizer.zero_grad()
        model(x).backward()
        optimizer.step()  # with
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)  # at


def clamped_after_step_before_zeroing() -> None:
    w = torch.ones(4, requires_grad=True)
    optimizer = torch.optim.Adam([w])
    for x in batches():
        (x @ w).square().mean().backward()
        optimizer.step()  # with
        with torch.no_grad():
            assert w.grad is not None
            w.grad.clamp_(-0.1, 0.1)  # at
        optimizer.zero_grad(set_to_none=False)


def clipped_after_zeroing() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        optimizer.zero_grad(set_to_none=False)  # with
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # at
        model(x).backward()
        optimizer.step()


def clipped_while_scaled() -> None:
    model = Net()
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", init_scale=64.0)
    for x in batches():
        optimizer.zero_grad()
        scaler.scale(model(x)).backward()
        nn.utils.clip_grad_value_(model.parameters(), 1.0)  # at
        scaler.step(optimizer)  # with
        scaler.update()


MISTIMED: list[Program] = [
    clipped_after_step,
    clamped_after_step_before_zeroing,
    clipped_after_zeroing,
    clipped_while_scaled,
]


def nothing_clears() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        model(x).backward()  # at
        optimizer.step()  # with


def only_body_is_cleared() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        model.body.zero_grad()  # with
        model(x).backward()  # at
        optimizer.step()  # with


def critic_step_gives_to_generator() -> None:
    generator, critic = nn.Linear(4, 2), nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    of_generator, of_critic = sgd(generator), sgd(critic)
    for x in batches():
        of_generator.zero_grad()
        of_critic.zero_grad()
        critic(generator(x)).mean().backward()  # at
        of_critic.step()  # with
        critic(generator(x)).mean().neg().backward()  # with
        of_generator.step()  # with


OLD: list[Program] = [nothing_clears, only_body_is_cleared, critic_step_gives_to_generator]


def gradient_of_scaled_input() -> None:
    x = torch.ones(4, requires_grad=True) * 0.1  # with
    x.sum().backward()
    _ = x.grad  # at


def gradient_of_activation() -> None:
    model = Net()
    hidden = model.embed(torch.ones(2, 4))
    model.head(hidden).sum().backward()
    _ = hidden.grad  # at


READ: list[Program] = [gradient_of_scaled_input, gradient_of_activation]


def hook_returns_zeros() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        hidden = model.embed(x) + 1
        hidden.register_hook(lambda grad: grad * 0)  # at
        step(optimizer, model.head(hidden).mean())


def hook_zeroes_in_place() -> None:
    def stop(grad: torch.Tensor) -> None:
        grad.mul_(0.0)  # at

    model = Net()
    optimizer = sgd(model)
    for x in batches():
        hidden = model.embed(x) + 1
        hidden.register_hook(stop)  # with
        step(optimizer, model.head(hidden).mean())


def hook_scales_gradient_of_both_operands() -> None:
    class Half:
        def __call__(self, grad: torch.Tensor) -> None:
            grad *= 0.5  # at

    left, right = nn.Linear(4, 4), nn.Linear(4, 4)
    optimizer = sgd(left, right)
    for x in batches():
        one, other = left(x), right(x)
        other.register_hook(Half())  # with
        step(optimizer, (one + other).square().mean())


HOOKED: list[Program] = [hook_returns_zeros, hook_zeroes_in_place, hook_scales_gradient_of_both_operands]


def clipped_between_and_measured_after() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        optimizer.zero_grad()
        model(x).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        nn.utils.clip_grad_norm_(model.parameters(), float("inf"))


def averaged_while_scaled_and_clipped_unscaled() -> None:
    model = Net()
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", init_scale=64.0)
    for x in batches():
        scaler.scale(model(x)).backward()
        for p in model.parameters():
            assert p.grad is not None
            p.grad.div_(2)
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


def gradients_decay() -> None:
    w = torch.ones(4, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.01)
    for x in batches():
        (x @ w).square().mean().backward()
        optimizer.step()
        assert w.grad is not None
        w.grad.mul_(0.9)


def zeroed_by_data() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        model(x).backward()
        optimizer.step()
        for p in model.parameters():
            assert p.grad is not None
            p.grad.data.zero_()


def clipped_between_two_steps() -> None:
    model = Net()
    of_body, of_head = sgd(model.body), sgd(model.head)
    for x in batches():
        of_body.zero_grad()
        of_head.zero_grad()
        model(x).backward()
        of_body.step()
        nn.utils.clip_grad_value_(model.head.parameters(), 0.1)
        of_head.step()


def trunk_takes_the_sum_of_two_heads() -> None:
    trunk, one, other = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 1)
    of_trunk, of_one, of_other = sgd(trunk), sgd(one), sgd(other)
    for x in batches():
        for optimizer in (of_trunk, of_one, of_other):
            optimizer.zero_grad()
        one(trunk(x)).mean().backward()
        of_one.step()
        other(trunk(x)).square().mean().backward()
        of_other.step()
        of_trunk.step()


def optimizer_of_the_program_changes_gradients() -> None:
    class Decayed(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            for p in self.param_groups[0]["params"]:
                p.grad.add_(p, alpha=0.01)
                p.add_(p.grad, alpha=-0.01)

    model = Net()
    optimizer = Decayed(model.parameters(), {})
    for x in batches():
        step(optimizer, model(x))


def hooks_that_return_other_tensors() -> None:
    def reverse(grad: torch.Tensor) -> torch.Tensor:
        grad = grad.clone()
        grad.mul_(-1)
        return grad

    def halve(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad.mul_(0.5)

    model = Net()
    optimizer = sgd(model)
    mask = torch.ones(4, 4).triu()
    model.body.weight.register_hook(lambda grad: grad * mask)
    model.head.weight.register_post_accumulate_grad_hook(halve)
    for x in batches():
        hidden = model.embed(x)
        hidden.register_hook(reverse)
        hidden.retain_grad()
        assert hidden.grad is None
        step(optimizer, model.head(hidden).mean())
        assert hidden.grad is not None


RIGHT: list[Program] = [
    clipped_between_and_measured_after,
    averaged_while_scaled_and_clipped_unscaled,
    gradients_decay,
    zeroed_by_data,
    clipped_between_two_steps,
    trunk_takes_the_sum_of_two_heads,
    optimizer_of_the_program_changes_gradients,
    hooks_that_return_other_tensors,
]
