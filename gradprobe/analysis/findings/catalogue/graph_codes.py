"""Catalogue of the rules about graphs that are kept too long, or that no backward pass uses."""

from __future__ import annotations

from gradprobe.analysis.findings.catalogue.rule import WARNING, Rule

RULES = (
    Rule(
        "GP201",
        "running-total-keeps-graph",
        WARNING,
        "A running total, a history or another container keeps the graph of every step.",
        "A tensor keeps the graph behind it alive, and with it every tensor saved for backward, so memory grows with each "
        "step.",
        "Store the value without its graph: `loss.detach()`, or `loss.item()` as a Python number.",
    ),
    Rule(
        "GP202",
        "activation-kept-with-graph",
        WARNING,
        "A hook stores activations together with their graphs.",
        "Each stored tensor keeps its `grad_fn` alive, and with it the graph behind it and the tensors saved for "
        "backward.",
        "Store `output.detach()`.",
    ),
    Rule(
        "GP203",
        "create-graph-cycle",
        WARNING,
        "`backward(create_graph=True)` creates a reference cycle between a parameter and its gradient.",
        "The gradient has a graph that references the parameter, and the parameter references the gradient as "
        "`.grad`, so neither is freed.",
        "Use `torch.autograd.grad(..., create_graph=True)`, which does not store into `.grad`.",
    ),
    Rule(
        "GP204",
        "graph-built-and-dropped",
        WARNING,
        "Autograd nodes were constructed again and again, but no backward pass reached them.",
        "Constructing a node costs time, and the tensors that it saves occupy memory until the graph is freed.",
        "Run this code under `torch.no_grad()`: it needs no gradients.",
    ),
    Rule(
        "GP205",
        "backward-repeats-earlier-iterations",
        WARNING,
        "A backward pass goes through the graphs of earlier iterations again.",
        "A hidden state, a running value or a cached result carries its graph into the next iteration, and "
        "`retain_graph=True` keeps what the earlier pass used. Each iteration takes longer and more memory than the one "
        "before.",
        "Detach what is carried over: `state = state.detach()`, and leave out `retain_graph=True`.",
        counts_times=False,
    ),
)
"""Rules, by their codes."""
