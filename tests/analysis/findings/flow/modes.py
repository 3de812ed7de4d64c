"""Functions whose results depend on the mode, checkpointed functions that draw other numbers, and look-alikes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.analysis.findings.flow.parts import Program, batches, sgd, step


def compare_modes(function: Callable[..., torch.Tensor], *arguments: Any) -> None:
    """Call a function under no_grad and with grad enabled."""
    with torch.no_grad():
        function(*arguments)
    result = function(*arguments)
    if result.requires_grad:
        result.sum().backward()


def statistics_by_mode() -> None:
    def standardise(x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():  # at
            return x - x.mean(0)  # with
        return x * 0.5  # with

    compare_modes(standardise, torch.arange(6.0).reshape(3, 2))


def approximation_by_decorator() -> None:
    def approximated(exact: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        @functools.wraps(exact)
        def choose(x: torch.Tensor) -> torch.Tensor:
            return exact(x) if torch.is_grad_enabled() else x - x.pow(3) / 3  # at

        return choose

    compare_modes(approximated(torch.tanh), torch.ones(4, requires_grad=True))


def stale_weight() -> None:
    class Normed(nn.Linear):
        ready: torch.Tensor | None = None

        def normed(self) -> torch.Tensor:
            if torch.is_grad_enabled():  # at
                return self.weight / self.weight.norm()
            if self.ready is None:
                self.ready = self.weight / self.weight.norm()  # with
            return self.ready

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.normed())

    torch.manual_seed(0)
    layer = Normed(4, 2)
    optimizer = torch.optim.SGD([layer.weight], lr=0.5)
    for x in batches():
        with torch.no_grad():
            layer(x)
        step(optimizer, layer(x).square().mean())


def hard_choice_without_grad() -> None:
    def choose(scores: torch.Tensor) -> torch.Tensor:
        if not scores.requires_grad:  # at
            return torch.zeros_like(scores).scatter(-1, scores.argmax(-1, keepdim=True), 1.0)  # with
        return scores.softmax(-1)

    scores = torch.arange(6.0).reshape(2, 3)
    choose(scores)
    choose(scores.clone().requires_grad_()).sum().backward()


def argument_rebound_by_mode() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled():  # at
                x = x + torch.randn_like(x)  # with
            return super().forward(x)

    layer = Noisy(4, 1).eval()
    batch = torch.ones(2, 4)
    with torch.no_grad():
        layer(batch)
    layer(batch).sum().backward()


def loop_that_rebinds_its_argument() -> None:
    def refine(x: torch.Tensor) -> torch.Tensor:
        for _ in range(3 if torch.is_grad_enabled() else 1):  # at
            x = x * 0.5 + 1
        return x.square()

    compare_modes(refine, torch.full((3, 4), 8.0))


DEPENDENT: list[Program] = [
    statistics_by_mode,
    approximation_by_decorator,
    stale_weight,
    hard_choice_without_grad,
    argument_rebound_by_mode,
    loop_that_rebinds_its_argument,
]


def checkpoint_with_other_noise() -> None:
    def block(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x * x, 0.5)  # at

    x = torch.ones(8, requires_grad=True)
    checkpoint(block, x, use_reentrant=False, preserve_rng_state=False).sum().backward()  # with


def checkpoint_made_beforehand() -> None:
    run = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=False)  # with

    class Block(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = super().forward(x).relu()
            noise = torch.randn_like(x)  # at
            return x * noise

    blocks = [Block(4, 4) for _ in range(2)]
    for x in batches():
        for block in blocks:
            x = run(block, x)
        x.mean().backward()


NOISY: list[Program] = [checkpoint_with_other_noise, checkpoint_made_beforehand]


def fused_for_inference() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(4, 6), nn.Linear(6, 2)

    def fused(x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            return second(first(x))
        return x @ (second.weight @ first.weight).t() + second.weight @ first.bias + second.bias

    compare_modes(fused, torch.randn(3, 4))


def noise_in_training() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training and torch.is_grad_enabled():
                x = x + torch.randn_like(x)
            return super().forward(x)

    layer = Noisy(4, 1)
    optimizer = sgd(layer)
    for x in batches():
        step(optimizer, layer.train()(x).mean())
        with torch.no_grad():
            layer.eval()(x)


def samples_in_both_modes() -> None:
    def sample(x: torch.Tensor) -> torch.Tensor:
        noise = torch.randn_like(x)
        return x + noise if torch.is_grad_enabled() else (x + noise).clone()

    for x in batches():
        compare_modes(sample, x)


def checkpoint_with_grad_only() -> None:
    layer = nn.Linear(4, 4)

    def run(x: torch.Tensor) -> torch.Tensor:
        block = nn.Sequential(layer, nn.Dropout(0.5).eval())
        return checkpoint(block, x, use_reentrant=False) if torch.is_grad_enabled() else block(x)

    for x in batches():
        compare_modes(run, x)


def the_same_by_other_steps() -> None:
    def double_square(x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            x = x * x
            return x + x
        x = x.square()
        return 2 * x

    compare_modes(double_square, torch.ones(3, 4))


def noise_before_a_checkpoint_without_any() -> None:
    layer, out = nn.Linear(4, 4), nn.Linear(4, 1)

    def inner(x: torch.Tensor) -> torch.Tensor:
        return layer(x).sigmoid()

    def run(x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.dropout(x, 0.5)
        x = checkpoint(inner, x, use_reentrant=False, preserve_rng_state=False)
        return checkpoint(noisy, x, use_reentrant=False)

    def noisy(x: torch.Tensor) -> torch.Tensor:
        return out(x + torch.randn_like(x)).square()

    for x in batches():
        run(x).mean().backward()


RIGHT: list[Program] = [
    fused_for_inference,
    noise_in_training,
    samples_in_both_modes,
    checkpoint_with_grad_only,
    the_same_by_other_steps,
    noise_before_a_checkpoint_without_any,
]
