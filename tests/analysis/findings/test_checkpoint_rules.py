"""A checkpointed function that does something else when it runs again: the lines that ran only once are named."""

from __future__ import annotations

import inspect

import torch
from torch.utils.checkpoint import CheckpointError, checkpoint

import gradprobe


def run_with_flag(settings: dict[str, bool]) -> None:
    def block(x: torch.Tensor) -> torch.Tensor:
        if settings["wide"]:
            x = x.sigmoid() * x  # varying
        return x.exp()

    x = torch.ones(3, requires_grad=True)
    y = checkpoint(block, x, use_reentrant=False)  # checkpoint
    settings["wide"] = not settings["wide"]
    try:
        y.sum().backward()
    except CheckpointError as error:
        print(error)


def test_the_line_that_differs_and_the_call_are_named() -> None:
    lines, first = inspect.getsourcelines(run_with_flag)
    marked = {n for n, line in enumerate(lines, first) if line.rstrip().endswith(("# varying", "# checkpoint"))}
    with gradprobe.record(level="ops") as recording:
        run_with_flag({"wide": True})
    found = recording.findings
    (related,) = found[found["rule"] == "GP651"]["related"]
    assert marked <= {place["line"] for place in related}


def differentiate_a_reentrant_checkpoint() -> None:
    layers = [torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)]
    x = torch.ones(2, 4, requires_grad=True)
    hidden = layers[0](x)
    out = checkpoint(layers[1], hidden, use_reentrant=True)  # checkpoint
    try:
        torch.autograd.grad(out.sum(), x)  # grad
    except RuntimeError as error:
        print(error)


def test_the_reentrant_checkpoint_is_named_that_grad_cannot_go_through() -> None:
    lines, first = inspect.getsourcelines(differentiate_a_reentrant_checkpoint)
    marked = {n for n, line in enumerate(lines, first) if line.rstrip().endswith(("# grad", "# checkpoint"))}
    with gradprobe.record(level="ops") as recording:
        differentiate_a_reentrant_checkpoint()
    (finding,) = recording.findings.query("rule == 'GP651'").to_dict("records")
    assert marked == {finding["line"], *(place["line"] for place in finding["related"])}
