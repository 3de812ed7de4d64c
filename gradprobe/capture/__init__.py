"""The one place that touches PyTorch's insides: what is replaced while recording, and what each replacement notes down."""
