"""A fresh process that prepares and times workloads for the one that compares: a JSON line asks, a JSON line answers."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch

from gradprobe.comparison.measure.bench import Bench, describe_error
from gradprobe.comparison.measure.call_timer import make_call_timer
from gradprobe.comparison.workloads.sources import WorkloadSource
from gradprobe.errors import GradprobeError

VERBS = ("open", "add_mixtures", "prepare", "measure", "managers", "mechanisms", "account", "issued", "instructions")


def main() -> int:
    """Serves until its standard input ends. What the workloads print goes nowhere, and they have nothing to read: it must
    not mix with answers and questions."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    questions = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    start = json.loads(questions.readline())
    if start["threads"]:
        torch.set_num_threads(start["threads"])
    if start["device"]:
        torch.set_default_device(start["device"])
    bench = Bench(start["modes"], seed=start["seed"], number=start["number"], timer=make_call_timer(start["device"]))
    print(json.dumps({"result": torch.get_num_threads()}), file=answers, flush=True)
    for line in questions:
        print(json.dumps(_answer(bench, json.loads(line))), file=answers, flush=True)
    return 0


def _answer(bench: Bench, question: dict[str, Any]) -> dict[str, Any]:
    verb, values = question["verb"], question["values"]
    assert verb in VERBS
    if verb == "open":
        values = {"source": WorkloadSource(**values)}
    try:
        return {"result": getattr(bench, verb)(**values)}
    except GradprobeError as error:
        return {"error": str(error)}
    except Exception as error:
        return {"error": describe_error(error)}


if __name__ == "__main__":
    sys.exit(main())
