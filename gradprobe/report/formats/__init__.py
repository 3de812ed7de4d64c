"""Renderers, one per format, and the registry that chooses between them."""
