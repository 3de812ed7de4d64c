"""Levels of detail of a recording, in a module that does not import torch."""

LEVELS = ("modes", "graph", "ops")
"""Names of the levels in increasing detail; each includes the ones before it."""

DEFAULT_LEVEL = "graph"
"""Level of a recording that the program itself makes, unless it chooses another one: it stays in the program."""
