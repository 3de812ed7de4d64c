"""Difference of two recordings: what a change of the program changed in sites, nodes, bytes, time and findings."""
