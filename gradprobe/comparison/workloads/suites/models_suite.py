"""Suite of small models for serving in which the mode can matter, written with torch alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.comparison.workloads.workload import Workload, WorkloadCall


def build_workloads() -> list[Workload]:
    """Return the models of this module, and GPT-2 of transformers if that is installed."""
    builders: dict[str, Callable[[], WorkloadCall]] = {
        "MLP": _build_mlp,
        "convnet with batch norm": _build_convnet,
        "encoder layer, fast path": partial(_build_encoder, fast=True),
        "encoder layer, slow path": partial(_build_encoder, fast=False),
        "GPT decode with a key-value cache": _build_decoder,
    }
    return [*(Workload(name, build) for name, build in builders.items()), *_build_transformers_models()]


def _build_mlp() -> WorkloadCall:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).eval()
    return partial(model, torch.randn(8, 32))


def _build_convnet() -> WorkloadCall:
    torch.manual_seed(0)

    def stage(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]

    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    model = nn.Sequential(*stage(3, 8), nn.MaxPool2d(2), *stage(8, 16), *head).eval()
    return partial(model, torch.randn(1, 3, 16, 16))


def _build_encoder(*, fast: bool) -> WorkloadCall:
    """Build an encoder layer. Its fast path is one fused operator."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True).eval()
    if not fast:
        # As in real models whose activation the fused operator does not support.
        layer.activation_relu_or_gelu = 0
    return partial(layer, torch.randn(2, 8, 32))


class _Block(nn.Module):
    """Pre-norm GPT block that processes one token at a time and caches keys and values in buffers of a fixed length."""

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.length = length

    def cache(self, batch: int) -> tuple[Tensor, Tensor]:
        shape = (batch, self.heads, self.length, self.out.in_features // self.heads)
        return torch.zeros(shape), torch.zeros(shape)

    def forward(self, x: Tensor, cache: tuple[Tensor, Tensor], position: int) -> Tensor:
        batch, width = x.shape
        query, key, value = self.into(self.before(x)).view(batch, 3, self.heads, -1).unbind(1)
        keys, values = cache
        keys[:, :, position] = key
        values[:, :, position] = value
        seen = slice(0, position + 1)
        attended = nn.functional.scaled_dot_product_attention(query.unsqueeze(2), keys[:, :, seen], values[:, :, seen])
        x = x + self.out(attended.transpose(1, 2).reshape(batch, width))
        mlp: Tensor = self.mlp(self.after(x))
        return x + mlp


class _Gpt(nn.Module):
    """Greedy decoder, one token at a time."""

    def __init__(
        self, *, vocabulary: int = 64, width: int = 32, heads: int = 4, layers: int = 2, length: int = 16
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(_Block(width, heads, length) for _ in range(layers))
        self.last = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, first: Tensor, steps: int) -> Tensor:
        caches = [block.cache(len(first)) for block in self.blocks]  # type: ignore[operator]
        chosen = [first]
        for position in range(steps):
            x = self.tokens(chosen[-1]) + self.positions.weight[position]
            for block, cache in zip(self.blocks, caches, strict=True):
                x = block(x, cache, position)
            chosen.append(self.head(self.last(x)).argmax(-1))
        return torch.stack(chosen, 1)


def _build_decoder() -> WorkloadCall:
    torch.manual_seed(0)
    model = _Gpt().eval()
    return partial(model, torch.zeros(1, dtype=torch.int64), 8)


def _build_transformers_models() -> list[Workload]:
    try:
        import transformers  # type: ignore[import-untyped,unused-ignore]
    except Exception:  # an installation that does not fit this torch raises other errors than ImportError
        return []
    library: Any = transformers
    if not library.utils.is_torch_available():  # it requires a newer torch, and offers no models
        return []

    def gpt2(call: Callable[[nn.Module, Tensor], WorkloadCall]) -> WorkloadCall:
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            n_layer=2, n_head=4, n_embd=64, vocab_size=200, n_positions=64, bos_token_id=0, eos_token_id=0
        )
        model: nn.Module = transformers.GPT2LMHeadModel(config)
        return call(model.eval(), torch.randint(1, 200, (1, 8)))

    def forward(model: nn.Module, prompt: Tensor) -> WorkloadCall:
        return partial(model, prompt)

    return [Workload("GPT-2 of transformers, forward", partial(gpt2, forward))]
