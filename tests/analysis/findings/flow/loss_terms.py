"""Programs that add a term without a graph to a loss, and programs that look alike and are right."""

from __future__ import annotations

import torch
from torch import nn

from tests.analysis.findings.flow.parts import Net, batches, sgd, step


def forces_without_graph() -> None:
    potential = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = sgd(potential)
    for x in batches():
        positions = x.clone().requires_grad_()
        energy = potential(positions)
        (gradient,) = torch.autograd.grad(energy.sum(), positions, retain_graph=True)  # at
        force_loss = (-gradient - 1.0).pow(2).mean()
        step(optimizer, energy.pow(2).mean() + 10 * force_loss)  # with


class Penalty:
    """Gradient penalty of a critic, in a class of its own."""

    def __init__(self, critic: nn.Module, *, has_graph: bool) -> None:
        self.critic, self.has_graph = critic, has_graph

    def norm(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        mixed = torch.lerp(real, fake, 0.5).requires_grad_()
        score = self.critic(mixed).sum()
        return torch.autograd.grad(score, mixed, create_graph=self.has_graph)[0].norm(dim=-1)

    def losses(self, real: torch.Tensor, fake: torch.Tensor) -> list[torch.Tensor]:
        return [self.critic(fake).mean(), -self.critic(real).mean(), (self.norm(real, fake) - 1).square().mean()]


def penalty_among_stacked_losses() -> None:
    penalty = Penalty(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), has_graph=False)
    optimizer = sgd(penalty.critic)
    for x in batches():
        losses = penalty.losses(x, -x)
        step(optimizer, torch.stack(losses).sum())  # with


def number_of_active_units() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        hidden = model.embed(x)
        sparsity = (hidden > 0.1).float().sum()  # at
        loss = model.head(hidden).mean()
        loss = loss + 1e-3 * sparsity  # with
        step(optimizer, loss)


def norm_of_stored_gradients() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        inputs = x.clone().requires_grad_()
        model(inputs).backward()  # at
        assert inputs.grad is not None
        smoothness = inputs.grad.pow(2).sum()
        loss = model(x)
        loss += smoothness  # with
        step(optimizer, loss)


def losses_of_layers_in_a_new_tensor() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizer = sgd(model)
    for x in batches():
        first = model[0](x)
        second = model[1](first)
        sparsity = [hidden.abs().mean() for hidden in (first, second)]
        balance = torch.tensor(sparsity).sum()  # at
        step(optimizer, (second - x).square().mean() + 0.1 * balance)  # with


def norms_of_weights_in_a_new_tensor() -> None:
    def decay(model: nn.Module) -> torch.Tensor:
        return torch.tensor([p.norm() for p in model.parameters()]).square().sum()  # at

    model = Net()
    optimizer = sgd(model)
    for x in batches():
        loss = model(x)
        loss = loss + 1e-2 * decay(model)
        step(optimizer, loss)


def losses_of_layers_stacked_and_logged() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizer = sgd(model)
    for x in batches():
        first = model[0](x)
        second = model[1](first)
        sparsity = [hidden.abs().mean() for hidden in (first, second)]
        torch.tensor(sparsity).sum()
        step(optimizer, (second - x).square().mean() + 0.1 * torch.stack(sparsity).sum())


def losses_weighted_by_their_values() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        losses = [model(x), model(-x).square()]
        weights = torch.tensor([loss.detach() for loss in losses]).softmax(dim=0)
        targets = torch.tensor([losses[0].item() + 1.0])
        step(optimizer, (weights * torch.stack(losses)).sum() + (losses[0] - targets).square().sum())


def penalty_with_graph() -> None:
    penalty = Penalty(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), has_graph=True)
    optimizer = sgd(penalty.critic)
    for x in batches():
        step(optimizer, torch.stack(penalty.losses(x, -x)).sum())
    penalty.has_graph = False
    print(torch.stack(penalty.losses(torch.ones(2, 4), -torch.ones(2, 4))).detach())


def weight_by_the_norms_of_gradients() -> None:
    model, other = Net(), nn.Linear(4, 1)
    optimizer = sgd(model, other)
    for x in batches():
        features = model.embed(x)
        first, second = model.head(features).mean(), other(features).square().mean()
        norms = [torch.autograd.grad(loss, features, retain_graph=True)[0].norm() for loss in (first, second)]
        step(optimizer, first + norms[0] / (norms[1] + 1e-4) * second)


def first_order_inner_step() -> None:
    weight = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([weight], lr=0.01)
    for x in batches():
        (gradient,) = torch.autograd.grad((x @ weight - 1).square().mean(), weight)
        fast = weight - 0.1 * gradient
        step(optimizer, (x @ fast - 2).square().mean())


def adversarial_input() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        inputs = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(inputs), inputs)
        attacked = x + 0.1 * gradient.sign()
        step(optimizer, model(x) + model(attacked))


def target_of_a_greedy_choice() -> None:
    q = nn.Linear(4, 3)
    optimizer = sgd(q)
    for x in batches():
        values = q(x)
        target = 0.9 * values.argmax(dim=1).float() + 1.0
        step(optimizer, (values.max(dim=1).values - target).square().mean())


def square_as_a_product() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        hidden = model.embed(x)
        difference = hidden - (hidden > 0.5).float()
        step(optimizer, (difference * difference).mean() + model(x))


def sum_that_begins_with_zeros() -> None:
    """As an objective of several parts does that adds up those which a model may have."""
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        score = model(x).square().mean(-1)
        added = torch.zeros_like(score)
        for weight in (0.5, 0.25):
            added.add_(weight * torch.ones_like(score))
        step(optimizer, (score - torch.zeros_like(score) + added).mean())


def loss_with_a_constant_of_the_type_of_its_result() -> None:
    model = Net()
    optimizer = sgd(model)
    for x in batches():
        score = model(x).abs().mean()
        margin = score.new_full((), 0.1) + torch.rand_like(score)
        step(optimizer, score + margin)


WRONG = [
    forces_without_graph,
    penalty_among_stacked_losses,
    number_of_active_units,
    norm_of_stored_gradients,
    losses_of_layers_in_a_new_tensor,
    norms_of_weights_in_a_new_tensor,
]
RIGHT = [
    losses_of_layers_stacked_and_logged,
    losses_weighted_by_their_values,
    penalty_with_graph,
    weight_by_the_norms_of_gradients,
    first_order_inner_step,
    adversarial_input,
    target_of_a_greedy_choice,
    square_as_a_product,
    sum_that_begins_with_zeros,
    loss_with_a_constant_of_the_type_of_its_result,
]
