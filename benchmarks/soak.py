"""Measure a monitor's memory over ten million transitions of many threads and tasks.

    python benchmarks/soak.py [--millions 10] [--level graph]

Prints, after each million transitions, the resident memory, the sizes of the largest tables, and seconds, as Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import threading
import time

from blocks import resident
from tabulate import tabulate

_BLOCKS = 500
"""Number of blocks per request; each block is two transitions."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--millions", type=int, default=10)
    parser.add_argument("--level", choices=("modes", "graph"), default="graph")
    options = parser.parse_args()

    import torch

    import gradprobe
    from gradprobe.capture.clock import SYSTEM
    from gradprobe.recorder import get_session

    weight = torch.ones(4, requires_grad=True)
    monitor = gradprobe.monitor(level=options.level)

    def request() -> None:
        for _ in range(_BLOCKS // 5):
            with torch.no_grad():
                with torch.enable_grad():
                    pass
            with torch.inference_mode():
                pass
            with torch.set_grad_enabled(False):
                pass
            with torch.no_grad():
                pass

    @monitor.expect_no_graph
    @gradprobe.no_grad()
    async def task() -> None:
        await asyncio.sleep(0)
        weight * 2

    async def serve(tasks: int) -> None:
        await asyncio.gather(*(asyncio.create_task(task()) for _ in range(tasks)))

    def million() -> None:
        for _ in range(1_000_000 // (2 * _BLOCKS) - 10):
            thread = threading.Thread(target=request)
            thread.start()
            thread.join()
        for _ in range(10):
            asyncio.run(serve(_BLOCKS // 2))

    rows = []
    with monitor:
        million()  # objects that are created once exist after this
        for number in range(options.millions + 1):
            gc.collect()
            begin = time.perf_counter()
            if number:
                million()
            tables = get_session(SYSTEM).tables
            counted = monitor.snapshot()
            sizes = [len(tables.threads), len(tables.names), len(tables.sites), len(counted["sites"])]
            rows.append((f"{number} million", f"{resident():.1f}", *sizes, f"{time.perf_counter() - begin:.1f}"))
    heads = ("transitions", "MB in all", "threads", "names", "places", "sites counted", "seconds")
    print(tabulate(rows, heads, tablefmt="github", disable_numparse=True))
    last = monitor.snapshot()
    print(f"\n{2 * last['blocks']:,} transitions were counted, faults: {last['faults'] or 'none'}")


if __name__ == "__main__":
    main()
