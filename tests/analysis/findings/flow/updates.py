"""Gradients that are cleared, updates without an optimizer that go wrong, and programs that look alike and are right."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from tests.analysis.findings.flow.parts import Net, Program, batches, sgd


def make_generator() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def critic_step_through_generator() -> None:
    generator, critic = make_generator(), nn.Linear(2, 1)
    of_generator, of_critic = sgd(generator), sgd(critic)
    for x in batches():
        of_critic.zero_grad()
        fake = generator(x)  # at
        critic(fake).mean().backward()  # with
        of_critic.step()
        of_generator.zero_grad()
        critic.requires_grad_(False)
        critic(generator(x)).mean().neg().backward()
        critic.requires_grad_(True)
        of_generator.step()
        of_generator.zero_grad()


def zeroed_gradients_of_generator() -> None:
    generator, critic = make_generator(), nn.Linear(2, 1)
    of_generator, of_critic = sgd(generator), sgd(critic)
    for x in batches():
        of_critic.zero_grad()
        critic(generator(x)).mean().backward()  # at
        of_critic.step()
        of_generator.zero_grad(set_to_none=False)
        critic(generator(x)).mean().neg().backward()
        of_generator.step()
        of_generator.zero_grad(set_to_none=False)


def measuring_pass_is_cleared() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        model(x).backward()  # at
        optimizer.zero_grad()  # with
        model(x).backward()
        optimizer.step()


CLEARED: list[Program] = [critic_step_through_generator, zeroed_gradients_of_generator, measuring_pass_is_cleared]


def weight_rebound_under_no_grad() -> None:
    w, b = torch.ones(4, requires_grad=True), torch.zeros(1, requires_grad=True)
    for x in batches():
        loss = (x @ w + b).square().mean()  # with
        loss.backward()  # with
        with torch.no_grad():
            if w.grad is not None:
                w = w - 0.1 * w.grad  # at
            b -= 0.1 * b.grad
            b.grad = None


def weights_rebound_in_dict() -> None:
    weights = {"w": torch.ones(4, 2, requires_grad=True), "v": torch.ones(2, requires_grad=True)}
    for x in batches():
        hidden = x @ weights["w"]
        (hidden @ weights["v"]).mean().backward()
        weights = {k: p - 0.1 * p.grad if p.is_leaf else p for k, p in weights.items()}  # at


REBOUND: list[Program] = [weight_rebound_under_no_grad, weights_rebound_in_dict]


def update_of_loop_variable() -> None:
    model = Net()
    for x in batches():
        model.zero_grad()
        model(x).backward()
        with torch.no_grad():
            for p in model.parameters():
                p = p - 0.1 * p.grad  # at


def update_of_flat_copy() -> None:
    layer = nn.Linear(4, 1)
    flat = torch.cat([p.detach().flatten() for p in layer.parameters()])
    for x in batches():
        layer.zero_grad()
        layer(x).mean().backward()
        flat -= 0.1 * torch.cat([p.grad.flatten() for p in layer.parameters() if p.grad is not None])  # at


LOST: list[Program] = [update_of_loop_variable, update_of_flat_copy]


def adversarial_pair_with_detach() -> None:
    generator, critic = make_generator(), nn.Sequential(weight_norm(nn.Linear(2, 4)), weight_norm(nn.Linear(4, 1)))
    of_generator, of_critic = sgd(generator), sgd(critic)
    for x in batches():
        fake = generator(x)
        of_critic.zero_grad()
        critic(fake.detach()).mean().backward()
        nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
        of_critic.step()
        of_generator.zero_grad()
        critic(fake).mean().neg().backward()
        of_generator.step()


def accumulated_gradients() -> None:
    model = Net()
    optimizer = sgd(model)
    for number, x in enumerate(batches()):
        model(x).backward()
        if number % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()


def gradients_measured() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        model(x).backward()
        sum(p.grad.norm().item() for p in model.parameters() if p.grad is not None)
        optimizer.zero_grad()
        model(x).backward()
        optimizer.step()
        optimizer.zero_grad()


def closure_of_lbfgs() -> None:
    model = Net()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model(torch.ones(2, 4)).square()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)


def one_step_of_lbfgs() -> None:
    model = Net()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model(torch.ones(2, 4)).square()
        loss.backward()
        return loss

    optimizer.step(closure)


def gradients_cleared_before_steps_with_a_closure() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():

        def closure(x: torch.Tensor = x) -> float:
            loss: torch.Tensor = model(x).square()
            loss.backward()
            return float(loss)

        optimizer.zero_grad()
        optimizer.step(closure=closure)


def results_made_leaves_again() -> None:
    w = torch.ones(4, requires_grad=True)
    for x in batches():
        (x @ w).square().mean().backward()
        with torch.no_grad():
            w = w - 0.1 * w.grad if w.grad is not None else w
            (x @ w).mean()
        w.requires_grad_()


def master_copies() -> None:
    layer = nn.Linear(4, 1).double()
    masters = [p.detach().clone().float().requires_grad_() for p in layer.parameters()]
    optimizer = torch.optim.SGD(masters, lr=0.1)
    for x in batches():
        layer.zero_grad()
        layer(x.double()).mean().backward()
        for master, p in zip(masters, layer.parameters(), strict=True):
            master.grad = None if p.grad is None else p.grad.float()
        optimizer.step()
        with torch.no_grad():
            for master, p in zip(masters, layer.parameters(), strict=True):
                p.copy_(master)


RIGHT: list[Program] = [
    adversarial_pair_with_detach,
    accumulated_gradients,
    gradients_measured,
    closure_of_lbfgs,
    one_step_of_lbfgs,
    gradients_cleared_before_steps_with_a_closure,
    results_made_leaves_again,
    master_copies,
]
