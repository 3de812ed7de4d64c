"""Findings from source code alone: nothing is run."""
