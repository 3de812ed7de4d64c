"""Read-only access to what PyTorch knows of tensors, graphs and version counters."""
