"""Programs that keep graphs longer than they use them, and programs that look alike and use theirs."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from tests.analysis.findings.flow.parts import Net, Program, batches, sgd, step


def total_of_an_object() -> None:
    class Meter:
        def __init__(self) -> None:
            self.total: torch.Tensor | float = 0.0

        def update(self, value: torch.Tensor) -> None:
            self.total += value  # at

    model, meter = Net(), Meter()
    optimizer = sgd(model)
    for x in batches(8):
        loss = model(x)
        step(optimizer, loss)
        meter.update(loss)


def lists_by_name() -> None:
    @dataclass
    class History:
        values: dict[str, list[torch.Tensor]] = field(default_factory=dict)

    model, history = Net(), History()
    optimizer = sgd(model)
    for x in batches(8):
        loss = model(x)
        step(optimizer, loss)
        history.values.setdefault("loss", []).append(loss)  # at


def cached_results() -> None:
    model = Net()
    optimizer = sgd(model)

    @functools.cache
    def embed(token: int) -> torch.Tensor:
        return model.embed(torch.full((1, 4), float(token)))

    for token in range(8):
        embed(token)
        step(optimizer, model(torch.ones(2, 4)))


def state_of_a_module() -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scaled = x * self.scale
            self.mean = 0.9 * self.mean + 0.1 * scaled.mean(0)  # at
            return scaled.sum()

    norm = Norm()
    optimizer = sgd(norm)
    for x in batches(8):
        step(optimizer, norm(x))


def default_argument(model: nn.Module | None = None) -> None:
    def log(value: torch.Tensor, seen: list[torch.Tensor] = []) -> None:  # noqa: B006
        seen.append(value)  # at

    net = Net()
    optimizer = sgd(net)
    for x in batches(8):
        loss = net(x)
        step(optimizer, loss)
        log(loss)


KEPT: list[Program] = [
    total_of_an_object,
    lists_by_name,
    cached_results,
    state_of_a_module,
    default_argument,
]


def numbers_only() -> None:
    model = Net()
    optimizer = sgd(model)
    history, total, last = [], torch.zeros(()), deque[torch.Tensor](maxlen=2)
    for x in batches(8):
        loss = model(x)
        step(optimizer, loss)
        history.append(loss.item())
        total += loss.detach()
        last.append(loss)  # the latest two only


def an_episode_that_ends_with_a_backward() -> None:
    policy = nn.Linear(4, 2)
    optimizer = sgd(policy)
    for _ in range(3):
        chances = []
        for _ in range(8):
            chances.append(policy(torch.ones(4)).log_softmax(-1)[0])  # noqa: PERF401
        step(optimizer, -torch.stack(chances).sum())


def truncated_sequences() -> None:
    cell = nn.GRUCell(4, 4)
    optimizer = sgd(cell)
    state, losses = torch.zeros(2, 4), []
    for number, x in enumerate(batches(12)):
        state = cell(x, state)
        losses.append(state.mean())
        if number % 4 == 3:
            step(optimizer, torch.stack(losses).sum())
            state, losses = state.detach(), []


def activations_of_a_hook_that_are_trained_through() -> None:
    model = Net()
    optimizer = sgd(model)
    kept: dict[str, torch.Tensor] = {}
    model.body.register_forward_hook(lambda module, inputs, output: kept.update(body=output))
    for x in batches(8):
        loss = model(x)
        step(optimizer, loss + kept["body"].square().mean())


def a_generator_that_hands_on_losses() -> None:
    model = Net()
    optimizer = sgd(model)

    def losses() -> Iterator[torch.Tensor]:
        for x in batches(8):
            yield model(x)

    for loss in losses():
        step(optimizer, loss)


def last_state_that_the_next_window_does_not_take() -> None:
    cell, head = nn.GRUCell(4, 4), nn.Linear(4, 1)
    optimizer = sgd(cell, head)

    def unroll(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        state, losses = torch.zeros(2, 4), []
        for _ in range(4):
            losses.append(head(state).mean())
            state = cell(x, state)
        return torch.stack(losses).sum(), state

    for x in batches(8):
        loss, last = unroll(x)
        step(optimizer, loss)
    print(last.shape)


USED: list[Program] = [
    last_state_that_the_next_window_does_not_take,
    numbers_only,
    an_episode_that_ends_with_a_backward,
    truncated_sequences,
    activations_of_a_hook_that_are_trained_through,
    a_generator_that_hands_on_losses,
]


def hidden_state_that_is_carried_on() -> None:
    cell = nn.GRUCell(4, 4)
    state = torch.zeros(2, 4)
    for x in batches():
        cell.zero_grad()
        state = cell(x, state)  # with
        state.mean().backward(retain_graph=True)  # at


def running_mean_of_losses() -> None:
    model = Net()
    running: torch.Tensor | float = 0.0
    for x in batches():
        running = 0.9 * running + 0.1 * model(x)
        model.zero_grad()
        running.backward(retain_graph=True)  # at


def memory_that_grows() -> None:
    model, memory = Net(), list[torch.Tensor]()
    for x in batches():
        memory.append(model.embed(x))
        model.zero_grad()
        model.head(torch.cat(memory)).mean().backward(retain_graph=True)  # at


class Windows:
    """A recurrent model whose state is an attribute, and a counter that has nothing to do with it."""

    def __init__(self) -> None:
        self.cell, self.state, self.count = nn.GRUCell(4, 4), torch.zeros(2, 4), 0

    def learn(self, x: torch.Tensor) -> None:
        self.count = self.count + 1
        state = self.state
        for _ in range(2):
            state = self.cell(x, state)
        self.state = state  # with
        loss = state.mean()
        self.cell.zero_grad()
        loss.backward(retain_graph=True)  # at


def state_that_is_an_attribute() -> None:
    windows = Windows()
    for x in batches():
        windows.learn(x)


GROWING: list[Program] = [
    hidden_state_that_is_carried_on,
    running_mean_of_losses,
    memory_that_grows,
    state_that_is_an_attribute,
]


def two_losses_of_one_pass() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        features = model.embed(x)
        optimizer.zero_grad()
        model.head(features).mean().backward(retain_graph=True)
        features.square().mean().backward()
        optimizer.step()


def a_graph_that_is_built_once() -> None:
    weight = torch.ones(4, requires_grad=True)
    prior = weight.exp().sum()
    for _ in batches():
        prior.backward(retain_graph=True)


def jacobian_by_rows() -> None:
    model = nn.Linear(4, 3)
    for x in batches():
        out = model(x.requires_grad_()).sum(0)
        for row in out:
            row.backward(retain_graph=True)


REPEATED: list[Program] = [two_losses_of_one_pass, a_graph_that_is_built_once, jacobian_by_rows]
