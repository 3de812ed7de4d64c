"""Two processes that a program starts under ``no_grad``: a forked one, which inherits the mode, and a spawned one.

    gradprobe run --subprocesses --force -o workers.gradprobe examples/workers.py
    gradprobe report workers.gradprobe workers.*.gradprobe

``--subprocesses`` records each process into a file of its own. In the report of all three, look at "Processes": both
workers were started under ``no_grad`` at the same line, and the spawned one began in grad mode and built a graph.
"""

from __future__ import annotations

import multiprocessing

import torch

weight = torch.ones(3, requires_grad=True)


def work(x: torch.Tensor) -> None:
    print(f"{multiprocessing.current_process().name}: {(x * weight).requires_grad = }")


def main() -> None:
    with torch.no_grad():
        for method in ("fork", "spawn"):
            process = multiprocessing.get_context(method).Process(target=work, args=(torch.ones(3),), name=method)
            process.start()
            process.join()


if __name__ == "__main__":
    main()
