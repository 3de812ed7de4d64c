"""Builders of the neutral document, one module per group of sections."""
