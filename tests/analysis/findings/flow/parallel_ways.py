"""Shortcuts that are cut while the layers beside them carry gradient, and programs that look alike and are right."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tests.analysis.findings.flow.parts import Program, batches, sgd, step


def detached_shortcut() -> None:
    first, inner, last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
    optimizer = sgd(first, inner, last)
    for x in batches():
        h = first(x)  # with
        h = h.detach() + inner(h).tanh()  # at
        step(optimizer, last(h).mean())


def skip_connection_kept_under_no_grad() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.deep, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(8, 1)
            self.skips: list[torch.Tensor] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.down(x)
            with torch.no_grad():
                self.skips.append(h.clone())
            return self.out(torch.cat([self.deep(h).relu(), self.skips.pop()], 1)).mean()

    net = Net()
    optimizer = sgd(net)
    for x in batches():
        step(optimizer, net(x))


def residual_blocks_with_detached_identity() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.layer = nn.LayerNorm(4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = x.clone().detach()  # at
            return torch.add(self.layer(self.norm(x)), kept)  # with

    net = nn.Sequential(nn.Linear(4, 4), Block(), Block(), nn.Linear(4, 1))
    optimizer = sgd(net)
    for x in batches():
        step(optimizer, net(x).mean())


def detached_part_of_a_concatenation() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.deep, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.down(x)
            return self.out(torch.cat([self.deep(h).relu(), h.detach()], 1)).mean()  # at

    net = Net()
    optimizer = sgd(net)
    for x in batches():
        step(optimizer, net(x))


WRONG: list[Program] = [
    detached_part_of_a_concatenation,
    detached_shortcut,
    skip_connection_kept_under_no_grad,
    residual_blocks_with_detached_identity,
]


def straight_through() -> None:
    encoder, decoder = nn.Linear(4, 4), nn.Linear(4, 1)
    optimizer = sgd(encoder, decoder)
    for x in batches():
        h = encoder(x)
        step(optimizer, decoder(h + (h.round() - h).detach()).mean())


def prediction_of_detached_projection() -> None:
    encoder, predictor = nn.Linear(4, 4), nn.Linear(4, 4)
    optimizer = sgd(encoder, predictor)
    for x in batches():
        z, other = encoder(x), encoder(x + 1)
        step(optimizer, -functional.cosine_similarity(predictor(z), other.detach()).mean())


def refined_step_by_step() -> None:
    features, start, delta = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(6, 2)
    optimizer = sgd(features, start, delta)
    for x in batches():
        h = features(x).relu()
        box = start(h)
        loss = box.mean()
        for _ in range(2):
            box = box.detach() + delta(torch.cat([h, box.detach()], 1))
            loss = loss + box.square().mean()
        step(optimizer, loss)


def probe_beside_head() -> None:
    trunk, head, probe = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 1)
    optimizer = sgd(trunk, head, probe)
    for x in batches():
        h = trunk(x).relu()
        step(optimizer, head(h).mean() + probe(h.detach()).square().mean())


def truncated_recurrence() -> None:
    cell, head = nn.GRUCell(4, 4), nn.Linear(4, 1)
    optimizer = sgd(cell, head)
    h = torch.zeros(2, 4)
    for x in batches():
        h = cell(x, h.detach())
        step(optimizer, head(h).mean())


def cascade_whose_stages_have_losses() -> None:
    trunk, first, sure = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(6, 1)
    optimizer = sgd(trunk, first, sure)
    for x in batches():
        h = trunk(x).relu()
        coarse = first(h)
        step(optimizer, coarse.square().mean() + sure(torch.cat([h.detach(), coarse], 1)).mean())


def memory_of_the_step_before() -> None:
    lower, upper, head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
    optimizer = sgd(lower, upper, head)
    memory = torch.zeros(2, 4)
    for x in batches():
        h = lower(x)
        both = torch.cat([memory, upper(h)])
        memory = h.detach()
        step(optimizer, head(both).mean())


RIGHT: list[Program] = [
    cascade_whose_stages_have_losses,
    memory_of_the_step_before,
    straight_through,
    prediction_of_detached_projection,
    refined_step_by_step,
    probe_beside_head,
    truncated_recurrence,
]
