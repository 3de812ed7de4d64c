"""Replacement of other modules' attributes, and its exact reversal."""
