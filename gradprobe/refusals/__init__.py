"""Refusals of autograd: each message that PyTorch raises on account of gradients, with its cause and the right edit.

The messages are those of PyTorch 2.13, read out of its libraries and Python sources. Nothing here imports torch: a
recording is explained by the same table that the running program is watched with.
"""
