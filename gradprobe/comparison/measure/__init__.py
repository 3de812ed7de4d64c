"""Measurement of one call: timing rounds, counts of mechanisms, instruction counts."""
