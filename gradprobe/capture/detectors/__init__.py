"""Detectors, one per kind of problem that shows only at run time."""
