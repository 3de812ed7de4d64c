"""Main program of a worker process: it reads requests and writes answers, one JSON object per line."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, is_dataclass
from typing import Any

import torch

from gradprobe.comparison.measure.bench import Bench
from gradprobe.comparison.measure.bench_protocol import BENCH_METHODS
from gradprobe.comparison.measure.call_errors import describe_error
from gradprobe.comparison.measure.call_timer import make_call_timer
from gradprobe.comparison.workloads.sources import WorkloadSource
from gradprobe.errors import GradprobeError


def main() -> int:
    """Answer requests until standard input ends.

    The workloads' own standard output and input are redirected to devnull: they must not mix with answers and requests.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    start = json.loads(requests.readline())
    if start["threads"]:
        torch.set_num_threads(start["threads"])
    if start["device"]:
        torch.set_default_device(start["device"])
    bench = Bench(start["modes"], seed=start["seed"], number=start["number"], timer=make_call_timer(start["device"]))
    print(json.dumps({"result": torch.get_num_threads()}), file=answers, flush=True)
    for line in requests:
        print(json.dumps(_answer(bench, json.loads(line))), file=answers, flush=True)
    return 0


def _answer(bench: Bench, request: dict[str, Any]) -> dict[str, Any]:
    method, values = request["method"], request["values"]
    assert method in BENCH_METHODS
    if method == "open":
        values = {"source": WorkloadSource(**values["source"])}
    try:
        result = getattr(bench, method)(**values)
    except GradprobeError as error:
        return {"error": str(error)}
    except Exception as error:
        return {"error": describe_error(error)}
    return {"result": asdict(result) if is_dataclass(result) and not isinstance(result, type) else result}


if __name__ == "__main__":
    sys.exit(main())
