"""``generate()`` of a tiny, randomly initialised GPT-2: a library changes the modes, not this file.

    python examples/generate.py

Nothing is downloaded. This program enters no gradient mode, and yet no graph is built: transformers decorates ``generate``
with ``no_grad``. Look at the table of sites, which has the file and the line of that decorator, and at the last line.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

import gradprobe


def tiny_gpt2() -> torch.nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2, pad_token_id=2
    )
    return GPT2LMHeadModel(config).eval()


def generate(model: torch.nn.Module) -> list[int]:
    """Return sixteen sampled tokens, the same at every call."""
    torch.manual_seed(1)
    prompt = torch.tensor([[5, 6, 7]])
    tokens = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=True, min_new_tokens=16, max_new_tokens=16
    )
    return tokens[0].tolist()


def main() -> int:
    try:
        model = tiny_gpt2()
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        print("generate.py needs transformers, which is not installed: pip install transformers", file=sys.stderr)
        return 2
    with gradprobe.record() as recording:
        tokens = generate(model)
    print(f"tokens: {tokens}\n")
    print(recording)
    print()
    sites = recording.sites
    for site in sites[sites["form"] == "decorator"].itertuples():
        print(f"{site.function} ran under the {site.manager} that decorates it at {site.file}:{site.line}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
