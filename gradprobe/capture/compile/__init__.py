"""Observation of ``torch.compile``."""
