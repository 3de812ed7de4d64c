"""GPT-2 decoding on an accelerator, at several batch sizes, plain, with torch.compile and as a CUDA graph.

    gradprobe run --force -o decode.gradprobe examples/decode_gpu.py
    gradprobe report decode.gradprobe

Each way of running is one block of ``inference_mode``. In "Device time", look at which of them are launch-bound: there the
processor cannot launch kernels fast enough, and a cheaper mode, a larger batch or a CUDA graph makes the program faster.
Without an accelerator the program prints that it needs one, and ends.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

BATCHES = (1, 8, 64)
TOKENS = 32


def forward_at(batch: int) -> tuple[torch.nn.Module, torch.Tensor]:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval().cuda()
    return model, torch.randint(0, 50_000, (batch, 16), device="cuda")


def plain(model: torch.nn.Module, prompt: torch.Tensor) -> None:
    with torch.inference_mode():
        for _ in range(TOKENS):
            model(prompt, use_cache=False)


def compiled(model: torch.nn.Module, prompt: torch.Tensor) -> None:
    with torch.inference_mode():
        for _ in range(TOKENS):
            model(prompt, use_cache=False)


def replayed(replay: Callable[[], None]) -> None:
    with torch.inference_mode():
        for _ in range(TOKENS):
            replay()


def captured(model: torch.nn.Module, prompt: torch.Tensor) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()
    with torch.no_grad():
        with torch.cuda.stream(side):
            for _ in range(3):
                model(prompt, use_cache=False)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            model(prompt, use_cache=False)
    return graph.replay


def main() -> None:
    if not torch.cuda.is_available():
        print("there is no CUDA device; this example needs one")
        return
    for batch in BATCHES:
        model, prompt = forward_at(batch)
        plain(model, prompt)
        replayed(captured(model, prompt))
        compiled(torch.compile(model), prompt)
        torch.cuda.synchronize()
        print(f"batch {batch}: {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB at the most")


if __name__ == "__main__":
    main()
