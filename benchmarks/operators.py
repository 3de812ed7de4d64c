"""What watching costs whole programs: levels `modes`, `graph` and `ops` against the unwatched run, interleaved and paired.

    python benchmarks/operators.py [--processes 5] [--pairs 12] [--only NAME]

In each fresh process every workload runs in samples of a fifth of a second, long enough for the writing thread to do its
work within them. Each round takes one sample per arm in random order, a second unwatched one among them as a control.
Ratios are of the samples of one round; then the median over the rounds, then over processes, with the range of these.
Recordings start and stop outside of the samples. Prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from blocks import resident
from tabulate import tabulate

SAMPLE_S = 0.2
ARMS = ("unwatched", "control", "nothing", "modes", "graph", "ops")


def workloads() -> Iterator[tuple[str, Callable[[], object]]]:
    """Small programs, in which what is fixed per operator weighs most."""
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
        yield f"tiny MLP, {name}", under(mode, lambda: mlp(x))
        yield f"encoder layer, {name}", under(mode, lambda: encoder(tokens))
        yield f"GPT-2 forward, {name}", under(mode, lambda: gpt2(prompt))
    yield "GPT-2 generate", generate
    yield "GPT-2 forward and backward", step


@contextlib.contextmanager
def watching(arm: str) -> Iterator[None]:
    """The program under one arm of the comparison."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from gradprobe.recorder import Recorder

    class Nothing(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    if arm in ("unwatched", "control"):
        yield
    elif arm == "nothing":
        with Nothing():
            yield
    else:
        with Recorder(level=arm):
            yield


def measure(pairs: int, only: str) -> dict[str, Any]:
    """Per workload, one dict of seconds per call by arm for each round; and what a million operators take."""
    order = random.Random(os.getpid())
    figures: dict[str, Any] = {}
    for name, call in workloads():
        if only not in name:
            continue
        for arm in ARMS:
            with watching(arm):
                call()
        begin = time.perf_counter()
        for _ in range(3):
            call()
        calls = max(int(SAMPLE_S / ((time.perf_counter() - begin) / 3)), 1)
        rounds = []
        for _ in range(pairs):
            taken = {}
            for arm in order.sample(ARMS, len(ARMS)):
                with watching(arm):
                    call()
                    begin = time.perf_counter()
                    for _ in range(calls):
                        call()
                    taken[arm] = (time.perf_counter() - begin) / calls
            rounds.append(taken)
        figures[name] = rounds
    figures["linear"] = linear()
    return figures


def linear() -> dict[str, float]:
    """Microseconds per operator in recordings of growing length, and the memory and disk that the longest takes."""
    import torch

    from gradprobe.recorder import Recorder

    x = torch.ones(4)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in (1_000, 10_000, 100_000, 1_000_000):
            path = Path(folder, f"{number}.gradprobe")
            before = resident()
            recorder = Recorder(path, level="ops")
            recorder.start()
            begin = time.perf_counter()
            with torch.no_grad():
                for _ in range(number):
                    x + x
            found[f"{number:,}"] = (time.perf_counter() - begin) / number * 1e6
            grown = resident() - before
            recorder.stop()
            found["MB"], found["file, kB"] = grown, path.stat().st_size / 1e3
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--only", default="", help="programs whose name has this in it")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.pairs, options.only)))
        return
    runs = []
    for number in range(options.processes):
        print(f"process {number + 1} of {options.processes}", file=sys.stderr)
        command = [sys.executable, __file__, "--measure", "--pairs", str(options.pairs), "--only", options.only]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        runs.append(json.loads(done.stdout))
    print(table(runs))
    print("\nOne region of so many operators, microseconds each; megabytes and kilobytes are of the longest:")
    for name in runs[0]["linear"]:
        print(f"- {name}: {statistics.median(run['linear'][name] for run in runs):.2f}")


def table(runs: list[dict[str, Any]]) -> str:
    columns = [("control", "unwatched"), ("modes", "unwatched"), ("graph", "unwatched"), ("nothing", "unwatched")]
    columns += [("ops", "unwatched"), ("ops", "nothing")]
    rows = []
    for name in runs[0]:
        if name == "linear":
            continue
        cells = []
        for arm, base in columns:
            medians = [statistics.median(taken[arm] / taken[base] for taken in run[name]) for run in runs]
            cells.append(f"{statistics.median(medians):.3f} ({min(medians):.3f} to {max(medians):.3f})")
        rows.append((name, *cells))
    heads = ["program", "unwatched again", "modes", "graph", "a mode that does nothing", "ops", "ops / nothing"]
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
