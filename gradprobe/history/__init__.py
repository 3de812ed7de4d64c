"""Interpretation of a recording: transitions, regions, calls and totals, rebuilt from stored rows."""
