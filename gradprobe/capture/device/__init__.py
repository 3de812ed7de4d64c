"""Timing of blocks on an accelerator."""
