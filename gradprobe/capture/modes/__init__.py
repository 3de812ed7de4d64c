"""Observation of the four context managers."""
