"""Two ranks that shard one model with FSDP2, train it, evaluate it, and gather their recordings on rank 0.

    torchrun --nproc-per-node 2 examples/fsdp.py

No file is written and no disk is shared: ``gradprobe.gather`` sends the recordings over the process group, and
rank 0 prints one report of both. Look at "Processes" and "Ranks": both ranks build their graphs at the same lines,
gather the same parameters under the same modes, and construct no nodes in evaluation.

Without torchrun (``python examples/fsdp.py``) it starts both ranks on this machine, over gloo.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import gradprobe

STEPS = 2


def work() -> None:
    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(dist.get_rank())
    for _ in range(STEPS):
        model(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():  # not inference_mode: FSDP2 keeps the parameters that it gathers under it
        model(torch.randn(4, 8))


def main() -> None:
    dist.init_process_group("gloo")
    with gradprobe.record(level="ops") as recording:
        work()
    everything = gradprobe.gather(recording)
    if everything is not None:
        print(everything)
    dist.destroy_process_group()


if __name__ == "__main__":
    if "RANK" in os.environ:
        main()
    else:
        from torch.distributed.run import main as torchrun

        torchrun(["--standalone", "--nproc-per-node", "2", __file__])
