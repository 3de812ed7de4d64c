"""Parts of the programs on which the rules on flow are tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

Program = Callable[[], object]
STEPS = 6


def batches(number: int = STEPS) -> Iterator[torch.Tensor]:
    for _ in range(number):
        yield torch.ones(2, 4)


def sgd(*modules: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD([p for module in modules for p in module.parameters()], lr=0.01)


def step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


class Net(nn.Module):
    """A body and a head; ``embed`` is what the head takes."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 1)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).relu()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(x)).mean()
