"""Small programs, in which fixed costs per operator weigh most."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

FIVE = (
    "MLP of five small layers, no_grad",
    "encoder layer, no_grad",
    "GPT-2 forward, inference_mode",
    "GPT-2 generate",
    "GPT-2 forward and backward",
)


def programs() -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield programs by name; ``FIVE`` are those of the README."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    torch.set_num_threads(1)
    linear = torch.nn.Linear
    mlp = torch.nn.Sequential(linear(16, 16), torch.nn.ReLU(), linear(16, 16), torch.nn.ReLU(), linear(16, 4))
    x = torch.randn(4, 16)
    encoder = torch.nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
    tokens = torch.randn(2, 16, 64)
    config = GPT2Config(n_layer=4, n_head=4, n_embd=128, vocab_size=500, n_positions=64, bos_token_id=0, eos_token_id=0)
    gpt2 = GPT2LMHeadModel(config).eval()
    prompt = torch.randint(1, 500, (1, 8))
    mask = torch.ones_like(prompt)

    def generate() -> object:
        return gpt2.generate(prompt, attention_mask=mask, max_new_tokens=16, do_sample=False, pad_token_id=0)

    def step() -> object:
        loss = gpt2(prompt, labels=prompt).loss
        return loss.backward()

    def under(mode: Callable[[], Any], call: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            with mode():
                return call()

        return run

    for name, mode in (
        ("no_grad", torch.no_grad),
        ("inference_mode", torch.inference_mode),
        ("grad", torch.enable_grad),
    ):
        yield f"MLP of five small layers, {name}", under(mode, lambda: mlp(x))
        yield f"encoder layer, {name}", under(mode, lambda: encoder(tokens))
        yield f"GPT-2 forward, {name}", under(mode, lambda: gpt2(prompt))
    yield "GPT-2 generate", generate
    yield "GPT-2 forward and backward", step
