"""Adapters of gradprobe to frameworks: one line to add, and none is imported unless its framework is in use."""
