"""Observation of PyTorch: everything that touches its modes, operators, graphs and compilations."""
