"""Programs that build graphs which no backward pass uses, and programs that look alike and use theirs."""

from __future__ import annotations

import threading

import torch
from torch import nn

from tests.analysis.findings.flow.parts import Net, Program, batches, sgd, step


def validation_between_epochs() -> None:
    model = Net()
    optimizer = sgd(model)

    def validate() -> float:
        model.eval()
        losses = []
        for x in batches():
            losses.append(model(x).item())  # noqa: PERF401 # at
        return sum(losses)

    for _ in range(3):
        for x in batches():
            step(optimizer, model(x))
        validate()  # with


def target_that_is_detached_afterwards() -> None:
    online, target = Net(), Net()
    optimizer = sgd(online)
    for x in batches():
        aim = target(x).detach()  # at
        step(optimizer, (online(x) - aim).square())


def decoding_without_any_training() -> None:
    table, cell, head = nn.Embedding(8, 4), nn.GRUCell(4, 4), nn.Linear(4, 8)
    state, token = torch.zeros(1, 4), torch.tensor([1])
    for _ in range(5):
        state = cell(table(token), state)  # at
        token = head(state).argmax(-1)  # with


def rollout_that_is_computed_again() -> None:
    policy = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = sgd(policy)

    class Actor:
        def act(self, state: torch.Tensor) -> int:
            return int(policy(state).softmax(-1).argmax())  # at

    actor = Actor()
    for _ in range(4):
        states = [torch.ones(4) for _ in range(5)]
        actions = [actor.act(state) for state in states]  # with
        logits = policy(torch.stack(states))
        step(optimizer, nn.functional.cross_entropy(logits, torch.tensor(actions)))


def grad_enabled_inside_of_no_grad() -> None:
    model = Net()
    optimizer = sgd(model)

    def predict(x: torch.Tensor) -> float:
        with torch.enable_grad():  # with
            return float(model(x).item())  # at

    for x in batches():
        step(optimizer, model(x))
        with torch.no_grad():
            predict(x)


WRONG: list[Program] = [
    validation_between_epochs,
    target_that_is_detached_afterwards,
    decoding_without_any_training,
    rollout_that_is_computed_again,
    grad_enabled_inside_of_no_grad,
]


def validation_under_no_grad() -> None:
    model = Net()
    optimizer = sgd(model)
    for _ in range(3):
        for x in batches():
            step(optimizer, model(x))
        model.eval()
        with torch.no_grad():
            [model(x).item() for x in batches()]


def accumulated_losses() -> None:
    model = Net()
    optimizer = sgd(model)
    for _ in range(3):
        losses = [model(x) for x in batches()]
        step(optimizer, torch.stack(losses).mean())


def losses_that_are_skipped_at_times() -> None:
    model = Net()
    optimizer = sgd(model)
    for number, x in enumerate(batches(8)):
        loss = model(x)
        if number % 4 == 1:
            continue
        step(optimizer, loss)


def gradients_without_backward() -> None:
    model = Net()
    for x in batches():
        x.requires_grad_()
        (slope,) = torch.autograd.grad(model(x), x)
        assert slope.shape == x.shape


def a_dry_run() -> None:
    model = Net()
    optimizer = sgd(model)
    print(model(torch.ones(1, 4)).shape)
    for x in batches():
        step(optimizer, model(x))


def norms_of_parameters() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, model(x))
        print(sum(p.norm() for p in model.parameters()))


def an_iteration_that_an_exception_ends() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        try:
            loss = model(x)
            auxiliary = model(x[:, :3])  # the wrong shape
            step(optimizer, loss + auxiliary)
        except RuntimeError:
            continue


def forward_passes_in_short_threads() -> None:
    model = Net()
    optimizer = sgd(model)
    losses: list[torch.Tensor] = []
    for x in batches():
        workers = [
            threading.Thread(target=lambda part: losses.append(model(part)), args=(part,)) for part in x.split(1)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        step(optimizer, torch.stack(losses).mean())
        losses.clear()


RIGHT: list[Program] = [
    validation_under_no_grad,
    accumulated_losses,
    losses_that_are_skipped_at_times,
    gradients_without_backward,
    a_dry_run,
    norms_of_parameters,
    an_iteration_that_an_exception_ends,
    forward_passes_in_short_threads,
]
