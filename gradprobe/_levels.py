"""Levels of detail of a recording, in a module that does not import torch."""

LEVELS = ("modes", "graph", "ops")
"""Names of the levels in increasing detail; each includes the ones before it."""

DEFAULT_LEVEL = "graph"
"""Level of a recording unless another one is chosen."""
