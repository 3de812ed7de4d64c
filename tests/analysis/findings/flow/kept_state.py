"""Programs in which what was kept is not what was meant to be kept, and programs that look alike and are right."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from tests.analysis.findings.flow.parts import Net, Program, batches, sgd, step


def best_weights_are_the_last() -> None:
    model = Net()
    optimizer = sgd(model)
    best = [weight.detach() for weight in model.parameters()]  # with
    for x in batches():
        step(optimizer, model(x))
    with torch.no_grad():
        for weight, kept in zip(model.parameters(), best, strict=True):
            weight.copy_(kept)  # at


COPIED: list[Program] = [best_weights_are_the_last]


def elements_updated_in_place() -> None:
    matrix, model = torch.zeros(2, 3, 3), Net()
    matrix[..., -1, -1] += 1.0
    matrix[:, 0] *= 2
    with torch.no_grad():
        model.head.weight[0] += 1
        model.head.weight[:, :2] *= 0.5


def optimizer_that_updates_elements() -> None:
    class Sparse(torch.optim.Optimizer):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            with torch.no_grad():
                for weight in self.param_groups[0]["params"]:
                    weight[:1] -= 0.1 * weight.grad[:1]

    model = Net()
    optimizer = Sparse(model.parameters(), {})
    for x in batches():
        step(optimizer, model(x))


def state_loaded_at_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), Net())
    optimizer = sgd(model)
    for x in batches():
        step(optimizer, model(x))
    model.load_state_dict(model.state_dict())


def gradients_with_graphs_that_are_reset() -> None:
    model, generator = Net(), nn.Linear(4, 4)
    of_model, of_generator = sgd(model), sgd(generator)
    for x in batches():
        of_model.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model(x).square().backward(create_graph=True)
        slopes = [weight.grad.square().sum() for weight in model.parameters() if weight.grad is not None]
        torch.autograd.grad(slopes, list(model.parameters()))
        of_model.step()
        step(of_generator, model(generator(x)))


RIGHT: list[Program] = [
    elements_updated_in_place,
    optimizer_that_updates_elements,
    state_loaded_at_once,
    gradients_with_graphs_that_are_reset,
]


def gradients_with_graphs_that_stay() -> None:
    weight = torch.ones(4, requires_grad=True)
    for x in batches():
        leaf = x.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (weight * leaf).tanh().sum().backward(create_graph=True)  # at


CYCLES: list[Program] = [gradients_with_graphs_that_stay]
