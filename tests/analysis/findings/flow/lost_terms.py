"""Programs that lose the graph of a term on the way, and programs that look alike and are right."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tests.analysis.findings.flow.parts import Net, batches, sgd, step


def divergence_of_detached_logits() -> None:
    def divergence(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        one, other = one.detach().log_softmax(-1), other.detach().log_softmax(-1)  # at
        return functional.kl_div(one, other, log_target=True, reduction="batchmean")  # with

    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    optimizer = sgd(model)
    for x in batches():
        one, other = model(x), model(x)
        step(optimizer, one.square().mean() + 4 * divergence(one, other))  # with


def residual_in_a_mode() -> None:
    model = Net()
    optimizer = sgd(model)

    def residual(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():  # with
            return (model.embed(x + 0.1) - model.embed(x)) * 5  # with

    for x in batches():
        losses = [model(x), residual(x).square().mean()]  # with
        step(optimizer, torch.stack(losses).sum())  # with


def term_through_an_array() -> None:
    def spectrum(x: torch.Tensor) -> torch.Tensor:
        values = x.detach().numpy()  # at
        return torch.from_numpy(values**2).float()  # with

    model = Net()
    optimizer = sgd(model)
    for x in batches():
        hidden = model.embed(x)
        loss = model.head(hidden).mean()
        loss = loss + functional.mse_loss(spectrum(hidden), torch.ones(2, 4))  # with
        step(optimizer, loss)


def term_through_numbers() -> None:
    def overlap(scores: torch.Tensor) -> torch.Tensor:
        sums = [sum(row) for row in scores.tolist()]  # at
        return 1 - torch.tensor(sums).mean()  # with

    model = Net()
    optimizer = sgd(model)
    for x in batches():
        hidden = model.embed(x).sigmoid()
        step(optimizer, model.head(hidden).mean() + overlap(hidden))  # with


def term_of_distances_that_a_helper_computes() -> None:
    def distances(x: torch.Tensor) -> Any:
        return x.detach().numpy() ** 2  # at

    def spread(x: torch.Tensor) -> torch.Tensor:
        found = torch.as_tensor(distances(x))  # with
        return found.masked_fill(found > 1, 1.0).mean()

    model = Net()
    optimizer = sgd(model)
    for x in batches():
        hidden = model.embed(x)
        step(optimizer, model.head(hidden).mean() - spread(hidden))  # with


def penalty_that_is_detached_as_it_is_logged() -> None:
    log: dict[str, torch.Tensor] = {}

    def keep(name: str, value: torch.Tensor) -> torch.Tensor:
        log[name] = value.detach()  # at
        return log[name]

    model = Net()
    optimizer = sgd(model)
    for x in batches():
        hidden = model.embed(x)
        penalty = keep("penalty", hidden.square().mean())
        step(optimizer, model.head(hidden).mean() + 0.1 * penalty)  # with


def value_above_a_baseline() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        hidden = model.embed(x)
        step(optimizer, model.head(hidden).mean() - hidden.square().mean().detach())


def divergence_with_the_entropy_of_its_target() -> None:
    model = nn.Linear(4, 3)
    optimizer = sgd(model)
    for x in batches():
        with torch.no_grad():
            target = model(x).softmax(-1)
        entropy = (target * target.log()).sum(-1).mean()
        step(optimizer, entropy - (target * model(2 * x).log_softmax(-1)).sum(-1).mean())


def score_of_what_another_loss_trains() -> None:
    critic, generator = nn.Linear(4, 1), nn.Linear(4, 4)
    for_critic, for_generator = sgd(critic), sgd(generator)
    for x in batches():
        step(for_critic, critic(generator(x).detach()).mean() - critic(x).mean())
        with torch.no_grad():
            real = critic(x).mean()
        step(for_generator, real - critic(generator(x)).mean())


def total_of_losses_that_train_by_themselves() -> None:
    one, other = Net(), Net()
    first, second = sgd(one), sgd(other)
    for x in batches():
        loss = one(x)
        step(first, loss)
        step(second, other(x) + loss.detach())


def choice_and_weights_through_an_array() -> None:
    model = nn.Linear(4, 3)
    optimizer = sgd(model)
    for x in batches():
        losses = model(x).square().mean(-1)
        values = losses.detach().numpy()
        hardest = torch.from_numpy((-values).argsort()[:1].copy())
        weights = torch.tensor(values / values.max())
        step(optimizer, losses[hardest].mean() + (weights * losses).mean() + torch.tensor(0.0))


def value_of_one_and_gradient_of_another() -> None:
    model, cost = nn.Linear(4, 3), torch.ones(3)
    optimizer = sgd(model)
    for x in batches():
        soft = model(x).softmax(-1)
        hard = functional.one_hot(soft.argmax(-1), 3).float() - soft.detach() + soft
        price = (hard * cost).sum(-1).mean()
        with torch.no_grad():
            rounded = price.round()
        step(optimizer, price + 0.1 * (rounded + price - price.detach()))


WRONG = [
    divergence_of_detached_logits,
    residual_in_a_mode,
    term_through_an_array,
    term_through_numbers,
    term_of_distances_that_a_helper_computes,
    penalty_that_is_detached_as_it_is_logged,
]
RIGHT = [
    value_above_a_baseline,
    divergence_with_the_entropy_of_its_target,
    score_of_what_another_loss_trains,
    total_of_losses_that_train_by_themselves,
    choice_and_weights_through_an_array,
    value_of_one_and_gradient_of_another,
]
