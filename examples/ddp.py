"""Two ranks that train one model, and an evaluation that only rank 0 runs under ``no_grad``.

    torchrun --nproc-per-node 2 -m gradprobe run --force -o ddp.gradprobe examples/ddp.py
    gradprobe report ddp.rank0.gradprobe ddp.rank1.gradprobe

Each rank writes a file of its own. In the report of both, look at

* "Processes": a row per rank, on one time axis;
* "Ranks": the line that builds a graph on rank 1 only, and the ``all_reduce`` that the ranks run under different modes;
* the findings GP901 and GP902, which report the same, with a fix.

Without torchrun (``python examples/ddp.py``) it starts both ranks on this machine, over gloo.
"""

from __future__ import annotations

import contextlib
import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

STEPS = 3


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(STEPS):
        loss = model(torch.randn(4, 8)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def evaluate(model: torch.nn.Module, rank: int) -> float:
    mode = torch.no_grad() if rank == 0 else contextlib.nullcontext()
    with mode:
        loss = model(torch.ones(4, 8)).square().mean()
        dist.all_reduce(loss.detach())
    return loss.item()


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    model = DistributedDataParallel(
        torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    )
    torch.manual_seed(rank)
    train(model, torch.optim.SGD(model.parameters(), lr=0.1))
    loss = evaluate(model.module, rank)
    if rank == 0:
        print(f"loss {loss:.4f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    if "RANK" in os.environ:
        main()
    else:
        from torch.distributed.run import main as torchrun

        torchrun(["--standalone", "--nproc-per-node", "2", __file__])
