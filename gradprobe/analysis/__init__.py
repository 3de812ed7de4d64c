"""Analyses of a recording: pure functions from its processes to numbers, sentences and findings."""
