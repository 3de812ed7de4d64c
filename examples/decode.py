"""A greedy decoder with a key-value cache, to be compared under no_grad and inference_mode.

    gradprobe compare examples/decode.py:decoder

Much of the work per token is views and writes into slices, which inference_mode makes cheaper. gradprobe calls ``decoder``
once, and measures the function that it returns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

TOKENS, WIDTH, LENGTH = 32, 16, 8


class Decoder(nn.Module):
    """A layer of attention over the tokens so far."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.into = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, TOKENS)

    def forward(self, token: Tensor) -> Tensor:
        keys, values = torch.zeros(2, LENGTH, WIDTH).unbind(0)
        chosen = [token]
        for position in range(LENGTH):
            query, key, value = self.into(self.embed(chosen[-1])).chunk(3)
            keys[position] = key
            values[position] = value
            weights = (keys[: position + 1] @ query).softmax(0)
            chosen.append(self.out(weights @ values[: position + 1]).argmax())
        return torch.stack(chosen)


def decoder() -> Callable[[], Tensor]:
    """Return the call to measure; its model and input are created once."""
    torch.manual_seed(0)
    model, first = Decoder().eval(), torch.tensor(1)
    return lambda: model(first)


if __name__ == "__main__":
    import gradprobe

    # A lambda cannot be sent to fresh processes, so this measures in the current one; the command above uses fresh ones.
    print(gradprobe.compare(decoder(), budget_s=5))
