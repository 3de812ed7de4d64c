"""Recordings in experiment trackers: what is logged, a module per tracker, and the registry that chooses between them."""
