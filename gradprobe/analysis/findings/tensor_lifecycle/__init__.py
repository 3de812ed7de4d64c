"""Lifecycle of inference tensors that the program keeps: who holds them, and which code will write, save or load them."""
